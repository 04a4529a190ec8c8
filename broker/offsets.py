"""Where a chunk stands in its attempt: how much of the text, the tokens, the thoughts and each call comes before it.

A reader takes each piece once by these, and a chunk that is too large for one message becomes two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from msgspec.structs import replace

from broker.messages import CallDelta, Chunk, ToolCall
from broker.messages.tools import grown


@dataclass(frozen=True)
class Offsets:
    """How much of an attempt is written: characters of its text and thoughts, tokens, its calls."""

    text: int = 0
    tokens: int = 0
    reasoning: int = 0
    calls: tuple[ToolCall, ...] = ()

    @classmethod
    def behind(cls, chunks: Sequence[Chunk]) -> Offsets:
        """Of what follows these chunks, an attempt's first ones."""
        return reduce(Offsets.moved_by, chunks, cls())

    def moved_by(self, chunk: Chunk) -> Offsets:
        """Of what follows that chunk."""
        return Offsets(
            self.text + len(chunk.text),
            self.tokens + len(chunk.tokens),
            self.reasoning + len(chunk.reasoning),
            grown(self.calls, chunk.calls),
        )

    def placed(self, deltas: tuple[CallDelta, ...]) -> tuple[CallDelta, ...]:
        """The deltas of one chunk, each with its place in its call's arguments."""
        calls, found = self.calls, []
        for delta in deltas:
            known = len(calls[delta.index].arguments) if delta.index < len(calls) else 0
            found.append(replace(delta, offset=known))
            calls = grown(calls, found[-1:])
        return tuple(found)


def is_divisible(chunk: Chunk) -> bool:
    """Whether there is more than one piece in it."""
    num_parts = len(chunk.text) + len(chunk.tokens) + len(chunk.reasoning) + len(chunk.calls)
    return num_parts + sum(len(delta.arguments) for delta in chunk.calls) > 1


def halves(deltas: tuple[CallDelta, ...]) -> tuple[tuple[CallDelta, ...], tuple[CallDelta, ...]]:
    """Half of the deltas, or of the only one's arguments."""
    if len(deltas) != 1:
        return deltas[: len(deltas) // 2], deltas[len(deltas) // 2 :]
    half = len(deltas[0].arguments) // 2
    rest = CallDelta(deltas[0].index, arguments=deltas[0].arguments[half:])
    return (replace(deltas[0], arguments=deltas[0].arguments[:half]),), (rest,)
