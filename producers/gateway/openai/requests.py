"""What requests of the OpenAI API have in common. Pure.

What is asked for and cannot be done is ignored and named, or refused by its name where an answer would make no sense
without it. Beside the API's own fields some are known that other servers for local models take: `top_k`, `min_p`,
`repeat_penalty`, `ignore_eos`, `grammar`, `json_schema`, `n_predict` and `chat_template_kwargs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.messages import Sampling
from broker.messages.turns import Thinking
from producers.gateway.biases import LogitBias, biases_of
from producers.gateway.errors import ApiError, unsupported
from producers.gateway.openai.fields import REFUSED
from producers.gateway.openai.formats import StreamOptions
from producers.gateway.sampling import (
    Defaults,
    Limit,
    NumAnswers,
    Penalty,
    RepeatPenalty,
    Share,
    Stop,
    Temperature,
    counted_up,
    sampling_of,
)

DEFAULTS = Defaults(max_tokens=500)


class Common(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What chats and completions have in common; null is as good as nothing."""

    model: Annotated[str, Meta(max_length=256)] = ""
    """Where it is not said, the file of routes may have a default, or there is just one."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    n_predict: Limit | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Share | None = None
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    seed: int | None = None
    stop: Stop | tuple[Stop, ...] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=512)] | None = None
    n: NumAnswers | None = None
    n_cmpl: NumAnswers | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None
    functions: tuple[dict[str, Any], ...] | None = None
    function_call: str | dict[str, Any] | None = None
    modalities: tuple[str, ...] | None = None
    audio: dict[str, Any] | None = None

    def check(self) -> None:
        """Raises ApiError for what is understood and cannot be done."""
        for name, (harmless, instead) in REFUSED.items():
            if (value := getattr(self, name)) is not None and value not in harmless:
                raise unsupported(name, f"is not supported: {instead}")
        options = self.stream_options
        if options is not None and (options.include_usage or options.continuous_usage_stats) and not self.stream:
            raise ApiError(400, "stream_options is for streams only", param="stream_options")

    @property
    def wants_usage(self) -> bool:
        """Whether a stream's last event tells the tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is read in pieces."""
        return bool(self.stream)

    @property
    def conversation(self) -> str | None:
        """`prompt_cache_key`, or else `user`."""
        return self.prompt_cache_key or self.user

    @property
    def ignored(self) -> tuple[str, ...]:
        """Fields that ask for something that is not done."""
        if (options := self.stream_options) is None:
            return ()
        asks = {
            "include_obfuscation": options.include_obfuscation,
            "continuous_usage_stats": options.continuous_usage_stats,
        }
        return tuple(f"stream_options.{name}" for name, is_asked in asks.items() if is_asked)

    @property
    def num_answers(self) -> int:
        """Of each prompt."""
        return self.n or self.n_cmpl or 1

    @property
    def progress(self) -> dict[str, Any]:
        """What a turn is told where the prompt's progress is wanted."""
        return {"progress": True} if self.return_progress else {}

    @property
    def thinking(self) -> Thinking | None:
        """Whether the model is to think first, or for how many tokens; None leaves it to its template."""
        return None

    @property
    def limit(self) -> int | None:
        """Of the answer's tokens; -1 is as many as the context holds."""
        limits = (self.max_completion_tokens, self.max_tokens, self.n_predict)
        return next((limit for limit in limits if limit is not None), None)

    @property
    def is_silent(self) -> bool:
        """Whether nothing is to be generated, the prompt only to be computed: one token is, and not told."""
        return self.limit == 0

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each; None without log-probabilities."""
        return None

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow."""
        return self.json_schema

    def samplings(self) -> Sequence[Sampling]:
        """That of each answer. Raises ApiError."""
        return counted_up(self.sampling(), self.num_answers)

    def sampling(self) -> Sampling:
        """How the API wants tokens chosen. Raises ApiError."""
        return sampling_of(
            DEFAULTS,
            limit=self.limit,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty if self.repeat_penalty is not None else self.repetition_penalty,
            seed=None if self.seed == -1 else self.seed,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=biases_of(self.logit_bias),
            stop=self.stop,
            ignore_eos=bool(self.ignore_eos),
            grammar=self.grammar or None,
            json_schema=self.schema,
            logprobs=self.num_logprobs,
            thinking=self.thinking,
        )
