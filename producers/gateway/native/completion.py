"""`POST /completion` and `/completions`: bodies → turns. Pure.

A prompt is a text, tokens, both mixed, an object with a text, or a list of those: each is a turn, and with `n` several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.messages import Message, Sampling
from producers.gateway.dialect import Asked
from producers.gateway.errors import ApiError
from producers.gateway.native.answers import Asking, Writer
from producers.gateway.native.sampling import Chosen, settings_of
from producers.gateway.rendering import prompt_of
from producers.gateway.sampling import NumAnswers, counted_up

MAX_PROMPTS = 64

Mixed = tuple[int | str, ...]
"""Tokens and texts, one after the other."""


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream says beside the answer: the last event has all of it anyway."""

    include_usage: bool | None = None


class Answered(Chosen, frozen=True, dict=True, forbid_unknown_fields=True, kw_only=True):
    """What bodies of completions and of infills have in common."""

    model: Annotated[str, Meta(max_length=256)] = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: NumAnswers | None = None
    n_cmpl: NumAnswers | None = None
    return_tokens: bool | None = None
    return_progress: bool | None = None
    timings_per_token: bool | None = None
    response_fields: Annotated[tuple[str, ...], Meta(max_length=64)] | None = None
    verbose: bool | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is read in pieces."""
        return bool(self.stream)

    @property
    def conversation(self) -> str | None:
        """llama-server's requests name none."""
        return None

    @property
    def ignored(self) -> Sequence[str]:
        """Probabilities are the model's own, before any cut; `verbose` tells the prompts of whole answers."""
        asks = {"post_sampling_probs": self.post_sampling_probs, "verbose": self.verbose and not self.tells_prompts}
        return tuple(name for name, is_asked in asks.items() if is_asked)

    @property
    def tells_prompts(self) -> bool:
        """Whether prompts are told as the model gets them: as they came else."""
        return False

    @property
    def progress(self) -> dict[str, Any]:
        """What a turn is told where the prompt's progress is wanted."""
        return {"progress": True} if self.return_progress else {}

    def check(self) -> None:
        """There is nothing that must be refused."""

    @property
    def num_answers(self) -> int:
        """Of each prompt."""
        return self.n_cmpl or self.n or 1

    @property
    def samplings(self) -> Sequence[Sampling]:
        """That of each answer to one prompt. Raises ApiError."""
        return counted_up(self.sampling, self.num_answers)

    def asking(self, prompts: Sequence[str], *, is_list: bool) -> Asking:
        """What an answer says of its request."""
        return Asking(
            prompts=prompts,
            num_answers=self.num_answers,
            settings=settings_of(
                self.sampling,
                is_streamed=self.is_streamed,
                limit=self.limit,
                more={
                    "post_sampling_probs": bool(self.post_sampling_probs),
                    "timings_per_token": bool(self.timings_per_token),
                },
            ),
            has_tokens=bool(self.return_tokens) and not self.is_streamed,
            has_timings=bool(self.timings_per_token),
            fields=self.response_fields or (),
            is_list=is_list,
        )


class CompletionBody(Answered, frozen=True, dict=True, forbid_unknown_fields=True, kw_only=True):
    """A prompt, or several, without the model's template."""

    prompt: str | tuple[Any, ...] | dict[str, Any]

    def prompts(self) -> tuple[list[str | Mixed], bool]:
        """Each of them, and whether they came as a list. Raises ApiError."""
        given = self.prompt
        if not isinstance(given, tuple) or any(_is_token(one) for one in given):
            return [_prompt(given)], False
        if not 1 <= len(given) <= MAX_PROMPTS:
            raise ApiError(400, f"prompt: a list has 1 to {MAX_PROMPTS} of them", param="prompt")
        return [_prompt(one) for one in given], len(given) > 1

    def asked(self) -> Sequence[Asked]:
        """So many answers to each prompt as are wanted. Raises ApiError."""
        found = [
            asked_of(prompt, sampling, self.progress) for prompt in self.prompts()[0] for sampling in self.samplings
        ]
        return [*found, *map(prompt_of, found)] if self.tells_prompts else found

    @property
    def tells_prompts(self) -> bool:
        """Whether prompts are told as the model gets them, where a whole answer is to have them: as they came else."""
        return not self.is_streamed and (bool(self.verbose) or "prompt" in (self.response_fields or ()))

    def writer(self, turn: str, model: str) -> Writer:
        """Of the answers."""
        prompts, is_list = self.prompts()
        texts = ["".join(map(str, one)) if isinstance(one, tuple) else one for one in prompts]
        texts = [one for one in texts for _ in range(self.num_answers)]
        asking = self.asking(texts, is_list=is_list or len(texts) > 1)
        return Writer(model, asking, tells_prompts=self.tells_prompts)


def asked_of(prompt: str | Mixed, sampling: Sampling, more: dict[str, Any]) -> Asked:
    """The turn of a prompt as it stands."""
    if isinstance(prompt, str):
        return Asked((Message("user", prompt),), sampling, is_raw=True, more=more)
    return Asked((), sampling, is_raw=True, more=more | {"prompt": prompt})


def _prompt(given: Any) -> str | Mixed:
    """One prompt of a body. Raises ApiError."""
    match given:
        case {"multimodal_data": _}:
            raise ApiError(400, "prompt: the model takes no images", param="prompt.multimodal_data")
        case {"prompt_string": str(text)} if text:
            return text
        case str() if given:
            return given
        case tuple() | list() if given and all(_is_token(one) or isinstance(one, str) for one in given):
            return tuple(given)
    message = "prompt: a text, a list of tokens and texts, or an object with a prompt_string, and not empty"
    raise ApiError(400, message, param="prompt")


def _is_token(one: Any) -> bool:
    return isinstance(one, int) and not isinstance(one, bool)
