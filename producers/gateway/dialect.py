"""Where a dialect begins and ends: a body becomes turns, their answers' events become what a client reads, a failure a
body. All else is the same for every API in front of the queue.

A dialect is added so:

1. A package `producers/gateway/NAME/` with a class that has what `Dialect` wants, made in `main.py` and given to
   `Gateway`; the first of them tells what is read by a turn's id. It imports nothing of another dialect.
2. A body is a frozen `msgspec.Struct` with what `TurnRequest` wants. The core decodes it (`bodies.py`): null is as good
   as nothing, numbers are read as JSON has them, fields that the type does not have are named in `Turnpike-Ignored`, or
   refused where the gateway is strict. What the type has and cannot be done, the body names in `ignored`.
3. It says what it asks for as one `Asked` or several, which the core sends and follows together: `index` is the place
   of one among them. Other options of `Client.ask` are in `Asked.more`, and what a worker must be able to do for them
   tells `abilities.py`. What the wire does not take is refused for all (`manners.py`), by the field's name in the
   request: `Asked.param_of`.
4. An `AnswerWriter` writes the answers: whole, as one value, or as the pieces of a stream's body. Where a protocol
   tells an answer by its parts (thoughts, text, calls) that open and close, `parts.py` makes those of chunks.
5. Other paths are `Plain`: a handler of a `Visit`, which has the models and the client. Types of bodies and summaries
   are the OpenAPI document. A key is taken from `Authorization: Bearer` and from `x-api-key`, for every dialect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.responses import Response

from broker.client import Client
from broker.messages import Chunk, Done, Failed, Message, Sampling, Started, TokenLogprob, Tool, ToolChoice
from producers.gateway.bodies import Harmless
from producers.gateway.errors import ApiError
from producers.gateway.visits import Visit


@dataclass(frozen=True)
class Finished:
    """An answer that has come to its end, with the log-probabilities of its tokens where they were asked for."""

    done: Done
    logprobs: Sequence[TokenLogprob] = ()


class AnswerWriter(Protocol):
    """The answers of one request in a dialect's words: whole, or as the pieces of a stream's body in their order. An
    `index` is a turn's place among those that were asked for, 0 where that is one."""

    @property
    def media_type(self) -> str:
        """Of a stream."""

    def goes_to(self, index: int, turn: str, model: str) -> None:
        """From now on the answer is that turn's, of that model."""

    def begun_with(self, index: int, started: Started) -> None:
        """A worker has begun."""

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the client."""

    def whole(self, answers: Sequence[Finished]) -> Any:
        """The answers in one value, in the order in which they were asked for."""

    def begin(self, index: int) -> bytes:
        """What comes before the first piece; nothing where the dialect has no such thing."""

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """The next piece. One of a higher attempt is the first of an answer that was begun anew."""

    def go_on_at(self, index: int, num_characters: int) -> None:
        """The next piece stands behind so many characters of the text."""

    def end(self, index: int, done: Done) -> bytes:
        """What comes behind the last piece of that answer."""

    def finish(self, dones: Sequence[Done], details: bytes = b"") -> bytes:
        """What comes behind the last answer's end; `details`, a comment, in front of the mark that nothing follows."""

    def broken_off(self, error: ApiError) -> bytes:
        """The end of a stream that was begun and cannot go on."""

    def comment(self, text: str) -> bytes:
        """For who listens; other readers skip it. Nothing where the dialect's streams have no comments."""


@dataclass(frozen=True)
class Offer:
    """The tools that a model may call, and how."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = "auto"
    is_parallel: bool = True
    """Whether one answer may hold several calls."""


NOTHING = Offer()


def plain_name(field: str) -> str:
    """A request's name of a turn's field where it has the same one."""
    return field.removeprefix("sampling.")


@dataclass(frozen=True)
class Asked:
    """One turn that a body asks for."""

    history: tuple[Message, ...]
    """The messages, the last of them to be answered, or gone on with."""
    sampling: Sampling
    """How tokens are to be chosen, and how many."""
    is_raw: bool = False
    """Whether the one message is the prompt itself, without the model's template."""
    template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template."""
    offer: Offer = NOTHING
    """The tools that the model may call."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else `Client.ask` is told."""
    param_of: Callable[[str], str] = plain_name
    """The request's name of a turn's field, by which its client is told what is wrong."""

    @property
    def options(self) -> dict[str, Any]:
        """All that `Client.ask` is told beside the messages."""
        return {
            "sampling": self.sampling,
            "raw": self.is_raw,
            "chat_template_kwargs": self.template_kwargs,
            "tools": self.offer.tools,
            "tool_choice": self.offer.choice,
            "parallel_tool_calls": self.offer.is_parallel,
            **self.more,
        }

    @property
    def told(self) -> tuple[Message, ...]:
        """By which its conversation is known, and its length: the history, or a prompt of tokens as text."""
        return self.history or (Message("user", str(self.more.get("prompt", ""))),)


class TurnRequest(Protocol):
    """What a body asks for."""

    @property
    def model(self) -> str:
        """A model, a policy, or nothing: then the file of routes may have a default."""

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is read in pieces."""

    @property
    def conversation(self) -> str | None:
        """Its name, any text, where the body gives one."""

    @property
    def ignored(self) -> Sequence[str]:
        """The fields that ask for something that is not done; a header says so."""

    def check(self) -> None:
        """Raises ApiError, which names the field, for what is understood and must be refused."""

    def asked(self) -> Sequence[Asked]:
        """The turns; none where nothing is to be answered: then the writer's `whole` of nothing is. Raises ApiError."""

    def writer(self, turn: str, model: str) -> AnswerWriter:
        """Of their answers; the first one's turn."""


Before = Callable[[Any, Client], Awaitable[TurnRequest]]
"""Makes a request whole of what its client has stored, before it is asked for. Raises ApiError."""
After = Callable[[Any, Sequence[Finished], Client], Awaitable[None]]
"""Stores what is to be kept of the answers, given their writer, before their end is told."""


@dataclass(frozen=True)
class Turned:
    """A path that turns are posted to."""

    kind: Callable[..., TurnRequest]
    """The struct that its bodies are read as."""
    summary: str
    harmless: Mapping[str, Harmless] = field(default_factory=dict)
    """Fields that it does not have, and the values with which they ask for nothing: those are not named."""
    before: Before | None = None
    after: After | None = None


@dataclass(frozen=True)
class Plain:
    """A path that is no turn."""

    method: str
    path: str
    handle: Callable[[Visit], Awaitable[Response]]
    """Raises ApiError."""
    summary: str
    kind: type | None = None
    """The struct that its body is read as, where it has one; `Visit.read` reads it."""
    statuses: tuple[int, ...] = ()
    """Of what may go wrong, beside 401."""
    needs_key: bool = True
    header: str | None = None
    """It is for requests with that header; others are another dialect's, who has the same path."""
    media_type: str | None = None
    """Where it may answer in a stream."""


class Dialect(Protocol):
    """One API in front of the queue."""

    @property
    def turns(self) -> Mapping[str, Turned]:
        """The paths that turns are posted to."""

    @property
    def plain(self) -> Sequence[Plain]:
        """Its other paths, the first that fits first."""

    @property
    def media_type(self) -> str:
        """Of its streams."""

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """What stands in the body where something went wrong."""

    @property
    def error_schema(self) -> dict[str, Any]:
        """The JSON schema of that."""
