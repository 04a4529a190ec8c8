"""The OpenAI API's words ↔ the wire's. Pure.

What is asked for and cannot be done is refused by its name, never ignored. Beside the API's own fields some that other
servers for local models take are known: `top_k`, `min_p`, `repeat_penalty`, `ignore_eos`, `grammar`.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.errors import InvalidMessage, InvalidName
from broker.messages import Chunk, Done, Failed, Message, Role, Sampling, TokenLogprob, Usage
from broker.subjects import token

MAX_TOKENS = 500
MAX_TOP_LOGPROBS = 20


class ApiError(Exception):
    """What the API answers instead: an HTTP status and the API's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after
        super().__init__(message)

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """A message as the API has it; fields that an answer came with may come back with it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[Part, ...]
    refusal: None = None
    annotations: tuple[()] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: tuple[()] | None = None
    name: None = None

    @property
    def message(self) -> Message:
        role: Role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
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


Stop = Annotated[str, Meta(min_length=1, max_length=256)]

ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
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

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    ignore_eos: bool | None = None
    grammar: Annotated[str, Meta(min_length=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[tuple[Stop, ...], Meta(max_length=16)] | None = None
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
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options is for streams only", param="stream_options")


class ChatRequest(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[tuple[ChatMessage, ...], Meta(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
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
        if self.top_logprobs is not None and not self.logprobs:
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
    suffix: None = None

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


def parse[T: (ChatRequest, CompletionRequest)](body: bytes, kind: type[T], *, leave_out_tools: bool = False) -> T:
    """The request in a body; raises ApiError, which names the field.

    Tools that are offered (`tool_choice` "auto") may be left out, as a model is free to use none; ones that are
    demanded may not.
    """
    try:
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        param = place.rstrip("`").lstrip(".") or None
        if "unknown field" in text:
            name = text.rpartition("`")[0].rpartition("`")[2]
            param = f"{param}.{name}" if param else name
            raise ApiError(400, f"{param} is not supported here", param=param, code="unsupported_parameter") from None
        raise ApiError(400, f"{param}: {text}" if param else text, param=param) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    request.check(leave_out_tools=leave_out_tools)
    return request


def sampling_of(request: Request) -> Sampling:
    """How the API wants tokens chosen: by default with temperature 1 and a random seed. Raises ApiError."""
    stop = request.stop if request.stop is not None else ()
    seed = request.seed if request.seed is not None else secrets.randbits(62)
    try:
        return Sampling(
            max_tokens=request.limit if request.limit is not None else MAX_TOKENS,
            temperature=request.temperature if request.temperature is not None else 1.0,
            top_k=max(0, request.top_k or 0),
            top_p=request.top_p if request.top_p is not None else 1.0,
            min_p=request.min_p or 0.0,
            repeat_penalty=request.repeat_penalty if request.repeat_penalty is not None else 1.0,
            seed=seed % 2**63,
            stop=(stop,) if isinstance(stop, str) else stop,
            ignore_eos=bool(request.ignore_eos),
            grammar=request.grammar,
            json_schema=request.schema,
            logprobs=request.num_logprobs,
        )
    except InvalidMessage as error:
        raise ApiError(400, str(error), param=error.field.removeprefix("sampling.")) from None


def conversation_of(request: Request, header: str | None) -> str:
    """Whose turn it is: as the header, `prompt_cache_key` or `user` say, else the one that begins as this one does.

    Every turn of a conversation has the same first messages up to the user's first, so that no gateway has to remember
    any.
    """
    said = header or request.prompt_cache_key or request.user
    if said:
        try:
            return token(said, "conversation")
        except InvalidName:  # any text is a name to the API
            return _digest("said", said)
    begin: list[str] = []
    for one in request.history:
        begin += (one.role, one.content)
        if one.role == "user":
            break
    return _digest("begins", *begin)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


# --- Answers ---

ERRORS: dict[str, tuple[int, str]] = {
    "prompt_too_long": (400, "context_length_exceeded"),
    "invalid_grammar": (400, "invalid_grammar"),
    "invalid_message": (400, "invalid_message"),
    "empty_prompt": (400, "empty_prompt"),
    "deadline": (408, "deadline"),
    "overloaded": (503, "overloaded"),
}
SCHEMA_FIELD, SCHEMA_PARAM = "sampling.json_schema", "response_format.json_schema.schema"


def error_of(failed: Failed) -> ApiError:
    """What a failed turn is to the API."""
    status, code = ERRORS.get(failed.code, (500, failed.code))
    kind = "invalid_request_error" if status == 400 else "server_error"
    detail, param = failed.detail, None
    if failed.code == "invalid_grammar" and detail.startswith(SCHEMA_FIELD):
        # The turn's field has another name in the request.
        param = SCHEMA_PARAM
        detail = param + detail.removeprefix(SCHEMA_FIELD)
    return ApiError(status, detail, param=param, kind=kind, code=code, retry_after=failed.retry_after)


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def finish_reason_of(done: Done) -> str:
    return "length" if done.finish_reason == "length" else "stop"


def _chat_logprob(token_logprob: TokenLogprob) -> dict[str, Any]:
    def one(piece: bytes, logprob: float) -> dict[str, Any]:
        return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}

    top = zip(token_logprob.top, token_logprob.top_pieces, strict=False)
    return one(token_logprob.piece, token_logprob.logprob) | {
        "top_logprobs": [one(piece, logprob) for (_, logprob), piece in top]
    }


@dataclass
class Dialect:
    """Makes one answer's JSON, chat or completion."""

    id: str
    model: str
    is_chat: bool
    fingerprint: str | None = None
    """Of the model file, once a worker has begun."""
    num_characters: int = 0

    def __post_init__(self) -> None:
        self.created = int(time.time())

    def _object(self, is_chunk: bool, choices: list[dict[str, Any]]) -> dict[str, Any]:
        name = ("chat.completion.chunk" if is_chunk else "chat.completion") if self.is_chat else "text_completion"
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        found = {"id": f"{prefix}-{self.id}", "object": name, "created": self.created, "model": self.model}
        return found | {"system_fingerprint": self.fingerprint, "choices": choices}

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not logprobs:
            return None
        if self.is_chat:
            return {"content": [_chat_logprob(one) for one in logprobs], "refusal": None}
        offsets = []
        for one in logprobs:
            offsets.append(self.num_characters)
            self.num_characters += len(one.piece.decode(errors="replace"))
        return {
            "tokens": [one.piece.decode(errors="replace") for one in logprobs],
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": [
                {
                    piece.decode(errors="replace"): logprob
                    for (_, logprob), piece in zip(one.top, one.top_pieces, strict=False)
                }
                for one in logprobs
            ],
            "text_offset": offsets,
        }

    def begin(self) -> dict[str, Any] | None:
        """The first event of a stream, which says whose words follow."""
        if not self.is_chat:
            return None
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._object(True, [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def chunk(self, chunk: Chunk) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": chunk.text}} if self.is_chat else {"text": chunk.text}
        return self._object(True, [choice | {"logprobs": self._logprobs(chunk.logprobs), "finish_reason": None}])

    def end(self, done: Done) -> dict[str, Any]:
        nothing: dict[str, Any] = {"delta": {}} if self.is_chat else {"text": ""}
        choice: dict[str, Any] = {"index": 0} | nothing
        return self._object(True, [choice | {"logprobs": None, "finish_reason": finish_reason_of(done)}])

    def usage(self, done: Done) -> dict[str, Any]:
        return self._object(True, []) | {"usage": usage_of(done.usage)}

    def whole(self, done: Done, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0}
        message = {"role": "assistant", "content": done.text, "refusal": None}
        choice |= {"message": message} if self.is_chat else {"text": done.text}
        choice |= {"logprobs": self._logprobs(logprobs), "finish_reason": finish_reason_of(done)}
        return self._object(False, [choice]) | {"usage": usage_of(done.usage)}
