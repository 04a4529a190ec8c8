"""Requests of the OpenAI API → turns. Pure.

What is asked for and cannot be done is refused by its name, or ignored and named. Beside the API's own fields some are
known that other servers for local models take: `top_k`, `min_p`, `repeat_penalty`, `ignore_eos`, `grammar` and
`chat_template_kwargs`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.errors import InvalidMessage
from broker.messages import Message, Sampling, check_messages
from broker.messages.tools import check_tools
from broker.messages.turns import Thinking
from producers.gateway.dialect import NOTHING, Asked, Offer
from producers.gateway.errors import ApiError
from producers.gateway.openai.answers import Writer
from producers.gateway.openai.chat_messages import ChatMessage
from producers.gateway.openai.tools import Choice, FunctionTool, choice_of, param_of

MAX_TOKENS = 500
MOST_TOKENS = 1_000_000
"""What the wire takes; no context holds as many."""
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_ANSWERS = 8
"""Of one prompt."""
LEAST_TEMPERATURE = 1e-5


class JsonSchema(Struct, frozen=True, forbid_unknown_fields=True):
    """A schema with its name, which nobody reads: a task's title is as good."""

    name: Annotated[str, Meta(max_length=256)]
    schema: dict[str, Any] | UnsetType = UNSET
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream says beside the answer."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Literal[False] | None = None


Stop = Annotated[str, Meta(max_length=256)]
"""An empty one stops nothing."""
Limit = Annotated[int, Meta(ge=-1)]
"""Of tokens; -1 is as many as the context holds, and so is what no context holds."""
ThoughtTokens = Annotated[int, Meta(ge=-1, le=MOST_TOKENS)]
"""-1 is as many as the model likes."""

ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "functions": ((),),
    "function_call": ("none", "auto"),
    "modalities": (("text",),),
}
"""Fields that cannot be done, with the values that ask for nothing: chat front ends send them unasked."""
INSTEAD = {"functions": "use tools", "function_call": "use tool_choice"}


class Common(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What chats and completions have in common; null is as good as nothing."""

    model: Annotated[str, Meta(max_length=256)] = ""
    """Where it is not said, the file of routes may have a default."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Limit | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    seed: int | None = None
    stop: Stop | tuple[Stop, ...] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=512)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_ANSWERS)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None

    def check(self) -> None:
        """Raises ApiError for what is understood and cannot be done."""
        for name, harmless in ASKS_FOR_NOTHING.items():
            value = getattr(self, name, None)
            if value is not None and value not in harmless:
                message = f"{name} is not supported: {INSTEAD.get(name, 'leave it out')}"
                raise ApiError(400, message, param=name, code="unsupported_parameter")
        if any((self.logit_bias or {}).values()):
            raise ApiError(
                400, "logit_bias is not supported: leave it out", param="logit_bias", code="unsupported_parameter"
            )
        options = self.stream_options
        if options is not None and (options.include_usage or options.continuous_usage_stats) and not self.stream:
            raise ApiError(400, "stream_options is for streams only", param="stream_options")
        if len(self.stops) > MAX_STOPS:
            raise ApiError(400, f"stop: must have at most {MAX_STOPS} entries", param="stop")
        for name in ("max_tokens", "max_completion_tokens"):
            if getattr(self, name, None) == 0:
                message = f"{name}: must be at least 1, or -1 for as many as the context holds"
                raise ApiError(400, message, param=name)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        found = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        return tuple(one for one in found if one)

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
        return ()

    @property
    def offer(self) -> Offer:
        """The tools that the model may call."""
        return NOTHING

    @property
    def thinking(self) -> Thinking | None:
        """Whether the model is to think first, or for how many tokens; None leaves it to its template."""
        return None

    @property
    def template_kwargs(self) -> dict[str, Any] | None:
        """Variables for the model's chat template; None where none is used."""
        return None

    @property
    def limit(self) -> int | None:
        """Of the answer's tokens; -1 is as many as the context holds."""
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each; None without log-probabilities."""
        return None

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow."""
        return None

    def samplings(self) -> list[Sampling]:
        """That of each answer: seeds count up. Raises ApiError."""
        first = self.sampling()
        seeds = [(first.seed + place) % 2**63 for place in range(self.n or 1)]
        return [msgspec.structs.replace(first, seed=seed) for seed in seeds]

    def sampling(self) -> Sampling:
        """How the API wants tokens chosen: by default with temperature 1 and a random seed. Raises ApiError."""
        seed = self.seed if self.seed is not None else secrets.randbits(62)
        try:
            return Sampling(
                max_tokens=_max_tokens(self.limit),
                temperature=_temperature(self.temperature),
                # No share of the probability at all is the likeliest token alone.
                top_k=1 if self.top_p == 0 else min(max(0, self.top_k or 0), MOST_TOKENS),
                top_p=self.top_p or 1.0,
                min_p=self.min_p or 0.0,
                repeat_penalty=self.repeat_penalty if self.repeat_penalty is not None else 1.0,
                seed=seed % 2**63,
                stop=self.stops,
                ignore_eos=bool(self.ignore_eos),
                grammar=self.grammar or None,
                json_schema=self.schema,
                logprobs=self.num_logprobs,
                thinking=self.thinking,
            )
        except InvalidMessage as error:
            raise ApiError(400, str(error), param=param_of(error.field)) from None


class ChatRequest(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[tuple[ChatMessage, ...], Meta(min_length=1, max_length=10_000)]
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: tuple[FunctionTool, ...] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    functions: tuple[dict[str, Any], ...] | None = None
    function_call: str | dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    reasoning_budget_tokens: ThoughtTokens | None = None
    thinking_budget_tokens: ThoughtTokens | None = None
    modalities: tuple[str, ...] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """Raises ApiError for what is understood and cannot be done."""
        super().check()
        for index, one in enumerate(self.messages):
            if (missing := one.missing) is not None:
                field = f"messages[{index}].{missing}"
                raise ApiError(400, f"{field} is required", param=field, code="missing_required_parameter")
        try:
            check_messages(self.history)
        except InvalidMessage as error:
            raise ApiError(400, error.reason, param=param_of(error.field)) from None
        self._check_tools()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs wants logprobs: true", param="top_logprobs")
        if self.response_format is not None and self.response_format.type == "json_schema":
            found = self.response_format.json_schema
            if found is None or isinstance(found.schema, UnsetType):
                raise ApiError(400, "a json_schema is wanted", param="response_format.json_schema.schema")

    def _check_tools(self) -> None:
        tools = tuple(one.tool for one in self.tools or ())
        try:
            check_tools(tools, choice_of(self.tool_choice))
        except InvalidMessage as error:
            param = param_of(error.field)
            raise ApiError(400, f"{param}: {error.reason}", param=param) from None
        if tools and self.grammar:
            raise ApiError(400, "grammar: a grammar and tools cannot both be given", param="grammar")

    @property
    def offer(self) -> Offer:
        """The tools that the model may call."""
        if not self.tools:
            return NOTHING
        is_parallel = self.parallel_tool_calls is not False
        return Offer(tuple(one.tool for one in self.tools), choice_of(self.tool_choice), is_parallel)

    @property
    def thinking(self) -> Thinking | None:
        """As `reasoning_effort` says, and the budget, by either of its names."""
        if self.reasoning_effort in ("none", "minimal"):
            return "off"
        budget = self.thinking_budget_tokens if self.reasoning_budget_tokens is None else self.reasoning_budget_tokens
        if budget is not None and budget >= 0:
            return budget
        return None if self.reasoning_effort is None else "on"

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each; None without log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def history(self) -> tuple[Message, ...]:
        """The chat, the last message of which is to be answered. An assistant's that say nothing are left out at its
        end: there are clients that send an empty answer back, to get another."""
        found = [one.message for one in self.messages]
        while (
            len(found) > 1 and found[-1].role == "assistant" and not (found[-1].content.strip() or found[-1].tool_calls)
        ):
            found.pop()
        return tuple(found)

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow."""
        found = self.response_format
        if found is None or found.type == "text":
            return None
        if found.json_schema is not None and not isinstance(found.json_schema.schema, UnsetType):
            return found.json_schema.schema
        return {"type": "object"}

    @property
    def template_kwargs(self) -> dict[str, Any] | None:
        """Variables for the model's chat template."""
        return self.chat_template_kwargs or None

    @property
    def ignored(self) -> tuple[str, ...]:
        """The names of participants; tools are known by their calls."""
        named = (index for index, one in enumerate(self.messages) if one.name and one.role != "tool")
        return tuple(f"messages[{index}].name" for index in named)

    def asked(self) -> Sequence[Asked]:
        """So many answers as are wanted, each with a seed of its own."""
        return [
            Asked(self.history, sampling, template_kwargs=self.template_kwargs, offer=self.offer)
            for sampling in self.samplings()
        ]

    def writer(self, turn: str, model: str) -> Writer:
        """Of its answer."""
        return Writer(turn, model, is_chat=True, has_usage=self.wants_usage)

    @property
    def limit(self) -> int | None:
        """Of the answer's tokens."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class ChatWithoutTools(ChatRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same for a gateway that leaves tools out: a model is free to call none where it need not."""

    def _check_tools(self) -> None:
        if self.tool_choice not in (None, "auto", "none"):
            message = "tool_choice: this gateway leaves tools out, so none can be demanded"
            raise ApiError(400, message, param="tool_choice", code="unsupported_parameter")

    @property
    def offer(self) -> Offer:
        """Nothing."""
        return NOTHING

    @property
    def ignored(self) -> tuple[str, ...]:
        """Tools besides."""
        return (*(["tools"] if self.tools else []), *super().ignored)


class CompletionRequest(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/completions`: a prompt without a template."""

    prompt: Annotated[str, Meta(min_length=1)] | Annotated[tuple[str, ...], Meta(min_length=1, max_length=1)]
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each; None without log-probabilities."""
        return self.logprobs

    @property
    def history(self) -> tuple[Message, ...]:
        """The prompt as one message. Raises ApiError."""
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        if not text:
            raise ApiError(400, "the prompt is empty", param="prompt")
        return (Message("user", text),)

    def asked(self) -> Sequence[Asked]:
        """So many answers as are wanted, each with a seed of its own. The prompt is what the model gets."""
        return [Asked(self.history, sampling, is_raw=True) for sampling in self.samplings()]

    def writer(self, turn: str, model: str) -> Writer:
        """Of its answer."""
        return Writer(turn, model, is_chat=False, has_usage=self.wants_usage)


Request = ChatRequest | CompletionRequest


def _temperature(wanted: float | None) -> float:
    """Below the least one logits divided by it are no numbers any more, and the likeliest token is all that is left."""
    if wanted is None:
        return 1.0
    return wanted if wanted >= LEAST_TEMPERATURE else 0.0


def _max_tokens(limit: int | None) -> int:
    if limit is None:
        return MAX_TOKENS
    return MOST_TOKENS if limit < 0 else min(limit, MOST_TOKENS)
