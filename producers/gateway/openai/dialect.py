"""The OpenAI API's words ↔ the wire's. Pure.

What is asked for and cannot be done is refused by its name, never ignored. Beside the API's own fields some that other
servers for local models take are known: `top_k`, `min_p`, `repeat_penalty`, `ignore_eos`, `grammar`.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from broker.conversations import name_of
from broker.errors import InvalidMessage, InvalidName
from broker.messages import Message, Role, Sampling
from broker.subjects import token
from producers.gateway.openai.answers import Dialect
from producers.gateway.openai.bodies import read
from producers.gateway.openai.errors import ApiError, error_of

__all__ = ["ApiError", "ChatRequest", "CompletionRequest", "Dialect", "Request", "error_of"]

MAX_TOKENS = 500
MOST_TOKENS = 1_000_000
"""What the wire takes; no context holds as many."""
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
LEAST_TEMPERATURE = 1e-5


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """A message as the API has it; fields that an answer came with may come back with it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[Part, ...]
    refusal: Literal[""] | None = None
    annotations: tuple[()] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: tuple[()] | None = None
    name: None = None

    @property
    def message(self) -> Message:
        role: Role = "system" if self.role == "developer" else self.role
        # Parts are texts of their own: a line end between them, as other servers do.
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return Message(role, text)


class JsonSchema(Struct, frozen=True, forbid_unknown_fields=True):
    """A schema with its name."""

    name: Annotated[str, Meta(max_length=64)]
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

ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "tools": ((),),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (("text",),),
}
"""Fields that cannot be done, with the values that ask for nothing: chat front ends send them unasked."""


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
    n: Literal[1] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None

    def check(self, *, leave_out_tools: bool = False) -> None:
        """Raises ApiError for what is understood and cannot be done."""
        for name, harmless in ASKS_FOR_NOTHING.items():
            value = getattr(self, name, None)
            if value is not None and value not in harmless and not (name == "tools" and leave_out_tools):
                raise ApiError(400, f"{name} is not supported: leave it out", param=name, code="unsupported_parameter")
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
        found = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        return tuple(one for one in found if one)


class ChatRequest(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[tuple[ChatMessage, ...], Meta(min_length=1, max_length=10_000)]
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    modalities: tuple[str, ...] | None = None

    def check(self, *, leave_out_tools: bool = False) -> None:
        super().check(leave_out_tools=leave_out_tools)
        if self.messages[-1].role != "user":
            raise ApiError(400, "the last message must be the user's", param=f"messages[{len(self.messages) - 1}].role")
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs wants logprobs: true", param="top_logprobs")
        if self.response_format is not None and self.response_format.type == "json_schema":
            found = self.response_format.json_schema
            if found is None or isinstance(found.schema, UnsetType):
                raise ApiError(400, "a json_schema is wanted", param="response_format.json_schema.schema")

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def history(self) -> tuple[Message, ...]:
        return tuple(one.message for one in self.messages)

    @property
    def schema(self) -> dict[str, Any] | None:
        found = self.response_format
        if found is None or found.type == "text":
            return None
        if found.json_schema is not None and not isinstance(found.json_schema.schema, UnsetType):
            return found.json_schema.schema
        return {"type": "object"}

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/completions`: a prompt without a template."""

    prompt: Annotated[str, Meta(min_length=1)] | Annotated[tuple[str, ...], Meta(min_length=1, max_length=1)]
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def history(self) -> tuple[Message, ...]:
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        if not text:
            raise ApiError(400, "the prompt is empty", param="prompt")
        return (Message("user", text),)

    @property
    def schema(self) -> dict[str, Any] | None:
        return None

    @property
    def limit(self) -> int | None:
        return self.max_tokens


Request = ChatRequest | CompletionRequest


def parse[T: Common](body: bytes, kind: type[T], *, leave_out_tools: bool = False) -> T:
    """The request in a body; raises ApiError, which names the field.

    Tools that are offered (`tool_choice` "auto") may be left out, as a model is free to use none; ones that are
    demanded may not.
    """
    request = read(body, kind)
    request.check(leave_out_tools=leave_out_tools)
    return request


def sampling_of(request: Request) -> Sampling:
    """How the API wants tokens chosen: by default with temperature 1 and a random seed. Raises ApiError."""
    seed = request.seed if request.seed is not None else secrets.randbits(62)
    try:
        return Sampling(
            max_tokens=_max_tokens(request.limit),
            temperature=_temperature(request.temperature),
            # No share of the probability at all is the likeliest token alone.
            top_k=1 if request.top_p == 0 else min(max(0, request.top_k or 0), MOST_TOKENS),
            top_p=request.top_p or 1.0,
            min_p=request.min_p or 0.0,
            repeat_penalty=request.repeat_penalty if request.repeat_penalty is not None else 1.0,
            seed=seed % 2**63,
            stop=request.stops,
            ignore_eos=bool(request.ignore_eos),
            grammar=request.grammar or None,
            json_schema=request.schema,
            logprobs=request.num_logprobs,
        )
    except InvalidMessage as error:
        raise ApiError(400, str(error), param=error.field.removeprefix("sampling.")) from None


def _temperature(wanted: float | None) -> float:
    """Below the least one logits divided by it are no numbers any more, and the likeliest token is all that is left."""
    if wanted is None:
        return 1.0
    return wanted if wanted >= LEAST_TEMPERATURE else 0.0


def _max_tokens(limit: int | None) -> int:
    if limit is None:
        return MAX_TOKENS
    return MOST_TOKENS if limit < 0 else min(limit, MOST_TOKENS)


def conversation_of(request: Request, header: str | None) -> str:
    """Whose turn it is: as the header, `prompt_cache_key` or `user` say, else what the chain of its history up to the
    last answer says, so that no gateway has to remember any, and chats that begin alike are kept apart."""
    return _said(request, header) or name_of(request.history)


def beginning_of(request: Request, header: str | None) -> str:
    """The same for all turns of a conversation, if also for others that begin alike: equal models are chosen by it."""
    history = request.history
    first = next((index for index, one in enumerate(history) if one.role == "user"), 0)
    return _said(request, header) or name_of(history[: first + 1])


def _said(request: Request, header: str | None) -> str | None:
    said = header or request.prompt_cache_key or request.user
    if not said:
        return None
    try:
        return token(said, "conversation")
    except InvalidName:  # any text is a name to the API
        return hashlib.sha256(f"said\0{said}".encode()).hexdigest()[:32]
