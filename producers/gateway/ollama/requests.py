"""Requests of Ollama's API → turns. Pure.

An answer comes in pieces unless `stream` is false. Who sends no message, or no prompt, wants its model loaded, or
unloaded: nothing here is for a client to order, and it is told that it is well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from broker.messages import Message, Sampling
from broker.messages.turns import Thinking
from producers.gateway.dialect import NOTHING, Asked, Offer
from producers.gateway.errors import ApiError
from producers.gateway.ollama.answers import Writer
from producers.gateway.ollama.memory import unpacked
from producers.gateway.ollama.messages import ChatMessage, OfferedTool, history_of, no_images
from producers.gateway.ollama.options import Options, param_of
from producers.gateway.sampling import NumLogprobs

NO_OPTIONS = Options()

ModelName = Annotated[str, Meta(max_length=256)]


class Common(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What chats and texts have in common; null is as good as nothing."""

    model: ModelName = ""
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    """`json`, or a schema."""
    options: Options | None = None
    think: bool | Literal["low", "medium", "high", "max", ""] | None = None
    keep_alive: float | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is read in pieces."""
        return self.stream is not False and not self.asks_nothing

    @property
    def conversation(self) -> str | None:
        """The API has no names for conversations."""
        return None

    @property
    def asks_nothing(self) -> bool:
        """Whether its model is to be loaded, or unloaded, and that is all."""
        raise NotImplementedError

    @property
    def reason(self) -> str:
        """What becomes of a model where nothing is asked."""
        return "unload" if self.keep_alive in (0, "0", "0s", "0m", "0h") else "load"

    @property
    def ignored(self) -> list[str]:
        """What asks for something that is not done."""
        found = [] if self.options is None else self.options.ignored
        asks = {"keep_alive": self.keep_alive is not None, "truncate": self.truncate, "shift": self.shift}
        return found + [name for name, is_asked in asks.items() if is_asked]

    def check(self) -> None:
        """Raises ApiError for what is understood and must be refused."""
        if not self.model:
            raise ApiError(400, "model is required", param="model", code="missing_required_parameter")
        if isinstance(self.format, str) and self.format not in ("", "json"):
            message = f'invalid format: "{self.format[:60]}"; expected "json" or a valid JSON Schema object'
            raise ApiError(400, message, param="format")
        if self.options is not None:
            self.options.check()

    @property
    def _schema(self) -> dict[str, Any] | None:
        if isinstance(self.format, dict):
            return self.format
        return {"type": "object"} if self.format else None

    @property
    def _thinking(self) -> Thinking | None:
        """The level counts for nothing: models here think or do not."""
        if self.think is None or self.think == "":
            return None
        return "on" if self.think else "off"

    def _sampling(self) -> Sampling:
        return (self.options or NO_OPTIONS).sampling(
            json_schema=self._schema,
            thinking=self._thinking,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class ChatRequest(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /api/chat`."""

    messages: tuple[ChatMessage, ...] = ()
    tools: tuple[OfferedTool, ...] | None = None

    @property
    def asks_nothing(self) -> bool:
        """No message wants an answer."""
        return not self.messages

    @property
    def offer(self) -> Offer:
        """The tools that the model may call."""
        return Offer(tuple(one.tool for one in self.tools)) if self.tools else NOTHING

    def asked(self) -> Sequence[Asked]:
        """The turn; none where nothing is asked. Raises ApiError."""
        if self.asks_nothing:
            return ()
        return (Asked(history_of(self.messages), self._sampling(), offer=self.offer, param_of=param_of),)

    def writer(self, turn: str, model: str) -> Writer:
        """Of its answer."""
        return Writer(self.model, is_chat=True, nothing=self.reason)


class GenerateRequest(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /api/generate`: a prompt, by the model's template unless it is `raw`, or what stands before a suffix."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: tuple[int, ...] | None = None
    raw: bool = False
    images: tuple[Any, ...] | None = None

    @property
    def asks_nothing(self) -> bool:
        """No prompt wants an answer."""
        return not (self.prompt or self.suffix)

    @property
    def ignored(self) -> list[str]:
        """What stands between a prompt and its suffix is no chat."""
        return super().ignored + (["system"] if self.suffix and self.system else [])

    def check(self) -> None:
        """Raises ApiError for what is understood and must be refused."""
        super().check()
        if self.raw and (self.template or self.system or self.context):
            raise ApiError(400, "raw mode does not support template, system, or context", param="raw")
        if self.template:
            message = "template is not supported: send what it makes of the prompt, with raw: true"
            raise ApiError(400, message, param="template", code="unsupported_parameter")
        if self.images:
            raise no_images("images")

    @property
    def _history(self) -> tuple[Message, ...]:
        """What its `context` remembers comes first; a system message of its own stands in the place of that one's."""
        before = unpacked(self.context) if self.context else ()
        if self.system:
            before = (Message("system", self.system), *(one for one in before if one.role != "system"))
        return (*before, Message("user", self.prompt))

    def asked(self) -> Sequence[Asked]:
        """The turn; none where nothing is asked. Raises ApiError."""
        if self.asks_nothing:
            return ()
        prompt, sampling = (Message("user", self.prompt),), self._sampling()
        if self.suffix:
            return (Asked(prompt, sampling, is_raw=True, more={"suffix": self.suffix}, param_of=param_of),)
        return (Asked(prompt if self.raw else self._history, sampling, is_raw=self.raw, param_of=param_of),)

    def writer(self, turn: str, model: str) -> Writer:
        """Of its answer."""
        is_chat_like = not (self.raw or self.suffix or self.asks_nothing)
        remembers = self._history if is_chat_like else None
        return Writer(self.model, is_chat=False, remembers=remembers, nothing=self.reason)
