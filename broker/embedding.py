"""Vectors of texts: a long list becomes turns, several of them in flight, and their vectors one list again."""

from __future__ import annotations

import array
import sys
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol, overload

from broker.errors import InvalidMessage, TurnpikeError
from broker.messages import Done, EmbedText

TEXTS_A_TURN = 32
"""What a turn has at most: a step or some, so that several workers share a list, and one that dies costs little."""
BYTES_A_TURN = 256 * 1024
"""Of its texts, unless one alone has more."""
IN_FLIGHT = 8
"""Turns that are sent before the first one's answer is there."""


class Vectors(Sequence[array.array[float]]):
    """The vectors of some texts, in their order; each is of length 1.

    `vectors[i]` is an `array.array` of floats. All of them as one matrix, where NumPy is there:
    `numpy.frombuffer(vectors.data, "<f4").reshape(len(vectors), vectors.dimension)`.
    """

    def __init__(self, dimension: int, data: bytes, num_tokens: int = 0) -> None:
        self.dimension = dimension
        """Values of each; 0 where there is no vector."""
        self.data = data
        """All of them, packed: float32, the least byte first."""
        self.num_tokens = num_tokens
        """Of the texts, all together."""

    def __len__(self) -> int:
        return len(self.data) // (4 * self.dimension) if self.dimension else 0

    @overload
    def __getitem__(self, index: int) -> array.array[float]: ...
    @overload
    def __getitem__(self, index: slice) -> list[array.array[float]]: ...
    def __getitem__(self, index: int | slice) -> array.array[float] | list[array.array[float]]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        found = array.array("f", self.packed(at))
        if sys.byteorder == "big":
            found.byteswap()
        return found

    def packed(self, index: int) -> bytes:
        """One of them as its bytes."""
        width = 4 * self.dimension
        return self.data[index * width : (index + 1) * width]


class EmbedAnswer(Protocol):
    """The answer to one turn. `Answer` is one."""

    def __await__(self):  # type: ignore[no-untyped-def]
        ...

    async def publish(self) -> None:
        """Sends the turn."""
        ...

    async def cancel(self) -> None:
        """Stops it. Raises PublishError."""
        ...

    async def close(self) -> None:
        """Stops listening."""
        ...


def vectors_of(done: Done) -> Vectors:
    """What a turn of texts came to. Raises InvalidMessage for an end without vectors: it was cancelled, or is another
    turn's."""
    if done.embeddings is None:
        raise InvalidMessage("embeddings", f"the turn ended as {done.finish_reason!r}, without vectors")
    return Vectors(done.embeddings.dimension, done.embeddings.data, done.usage.prompt_tokens)


def joined(parts: Iterable[Vectors]) -> Vectors:
    """The vectors of several turns as those of one. Raises InvalidMessage where they are of several models."""
    found = list(parts)
    dimensions = {part.dimension for part in found}
    if len(dimensions) > 1:
        raise InvalidMessage("embeddings", f"vectors of {sorted(dimensions)} values: several models answered")
    data = b"".join(part.data for part in found)
    return Vectors(dimensions.pop() if dimensions else 0, data, sum(part.num_tokens for part in found))


class _Part:
    """The texts of a turn, as it is filled."""

    def __init__(self) -> None:
        self._texts: list[EmbedText] = []
        self._num_bytes = 0

    def add(self, text: EmbedText) -> tuple[EmbedText, ...] | None:
        """One more. Where it has no room beside the others, those are a turn, and it begins the next one."""
        size = sum(_num_bytes(one) for one in ((text,) if isinstance(text, str) else text))
        full = None
        if self._texts and (len(self._texts) == TEXTS_A_TURN or self._num_bytes + size > BYTES_A_TURN):
            full = self.rest()
        self._texts.append(text)
        self._num_bytes += size
        return full

    def rest(self) -> tuple[EmbedText, ...]:
        """Those that are left."""
        found, self._texts, self._num_bytes = tuple(self._texts), [], 0
        return found


def _num_bytes(piece: str | int) -> int:
    """On the wire, at most."""
    return 5 if isinstance(piece, int) else len(piece.encode(errors="replace")) + 5


def in_parts(texts: Iterable[EmbedText]) -> list[tuple[EmbedText, ...]]:
    """The texts, as many together as one turn has."""
    part = _Part()
    found = [full for text in texts if (full := part.add(text)) is not None]
    return [*found, rest] if (rest := part.rest()) else found


async def in_turns(texts: Iterable[EmbedText] | AsyncIterable[EmbedText]) -> AsyncIterator[tuple[EmbedText, ...]]:
    """As `in_parts`, of texts as they come."""
    part = _Part()
    async for text in _each(texts):
        if (full := part.add(text)) is not None:
            yield full
    if rest := part.rest():
        yield rest


async def _each(texts: Iterable[EmbedText] | AsyncIterable[EmbedText]) -> AsyncIterator[EmbedText]:
    if isinstance(texts, AsyncIterable):
        async for text in texts:
            yield text
    else:
        for text in texts:
            yield text


async def embedded(
    ask: Callable[[tuple[EmbedText, ...]], EmbedAnswer],
    texts: Iterable[EmbedText] | AsyncIterable[EmbedText],
    max_in_flight: int = IN_FLIGHT,
) -> AsyncIterator[Vectors]:
    """The vectors of each turn, in order, while those behind it are on their way; texts are taken as they are sent.

    `ask` makes a turn's answer. What is in flight when one fails, or nobody goes on reading, is cancelled. Raises
    TurnFailed, PublishError, InvalidMessage.
    """
    waiting: deque[EmbedAnswer] = deque()
    try:
        async for part in in_turns(texts):
            answer = ask(part)
            await answer.publish()
            waiting.append(answer)
            while len(waiting) >= max_in_flight:
                yield vectors_of(await waiting[0])
                waiting.popleft()
        while waiting:
            yield vectors_of(await waiting[0])
            waiting.popleft()
    finally:
        for answer in waiting:
            with suppress(TurnpikeError):
                await answer.cancel()
            await answer.close()
