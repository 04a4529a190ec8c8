"""An answer by its parts, for dialects that open and close them: thoughts, text, calls, each with all that it says.
Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from broker.messages import CallDelta, Chunk, Done, TokenLogprob

PartKind = Literal["thoughts", "text", "call"]


@dataclass
class Part:
    """One of an answer's parts, as far as it came. `text` of a call is its arguments, as JSON."""

    index: int
    """Its place in the answer."""
    kind: PartKind
    id: str = ""
    """Of a call, and which tool it calls."""
    name: str = ""
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    _number: int = -1
    """Of a call, among the answer's calls."""


@dataclass(frozen=True)
class Opened:
    """A part begins; nothing of it was told yet."""

    part: Part


@dataclass(frozen=True)
class Grown:
    """A part goes on: `text` is what is new, `part` has it already."""

    part: Part
    text: str
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True)
class Closed:
    """A part is whole."""

    part: Part


Event = Opened | Grown | Closed


class Parts:
    """The parts of one answer, one open at a time, as its chunks come."""

    def __init__(self) -> None:
        self._open: Part | None = None
        self._num_parts = 0

    def chunk(self, chunk: Chunk) -> Iterator[Event]:
        """What a chunk tells."""
        if chunk.reasoning:
            yield from self._grow("thoughts", chunk.reasoning)
        calls = [*chunk.calls]
        # A call that breaks off is told as text, too, and its last arguments may come with that.
        while calls and not calls[0].name and self._is_open(calls[0]):
            yield from self._grow("call", calls.pop(0).arguments)
        if chunk.text or (chunk.logprobs and not chunk.reasoning and not chunk.calls):
            yield from self._grow("text", chunk.text, chunk.logprobs)
        for delta in calls:
            if delta.name:
                yield from self._begin(Part(self._num_parts, "call", delta.id, delta.name, _number=delta.index))
            if delta.arguments and self._is_open(delta):
                yield from self._grow("call", delta.arguments)

    def end(self) -> Iterator[Event]:
        """What the end of the answer tells."""
        if self._open is not None:
            closed, self._open = self._open, None
            yield Closed(closed)

    def _is_open(self, delta: CallDelta) -> bool:
        return self._open is not None and self._open.kind == "call" and self._open._number == delta.index

    def _begin(self, part: Part) -> Iterator[Event]:
        yield from self.end()
        self._open = part
        self._num_parts += 1
        yield Opened(part)

    def _grow(self, kind: PartKind, text: str, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[Event]:
        if self._open is None or self._open.kind != kind:
            yield from self._begin(Part(self._num_parts, kind))
        assert self._open is not None
        self._open.text += text
        self._open.logprobs.extend(logprobs)
        yield Grown(self._open, text, logprobs)


def parts_of(done: Done, logprobs: Sequence[TokenLogprob] = ()) -> list[Part]:
    """Those of a whole answer: thoughts, text, calls; of each what there is."""
    found: list[Part] = []
    if done.reasoning:
        found.append(Part(len(found), "thoughts", text=done.reasoning))
    if done.text and (done.text.strip() or not done.tool_calls):
        found.append(Part(len(found), "text", text=done.text, logprobs=[*logprobs]))
    for number, call in enumerate(done.tool_calls):
        found.append(Part(len(found), "call", call.id, call.name, call.arguments, _number=number))
    return found
