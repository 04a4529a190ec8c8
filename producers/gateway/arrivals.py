"""What came of the answers of a stream, until it is sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from broker.messages import Chunk
from broker.waiting import Bell
from producers.gateway.errors import ApiError
from producers.gateway.reading import ClientGone
from producers.gateway.strand import Strand


@dataclass(frozen=True)
class Arrived:
    """What came of one answer: a chunk, the error that is its end, or nothing more."""

    strand: Strand
    what: Chunk | ApiError | None


class Arrivals:
    """All that is there is taken at once: what came while the client was slow goes to it as one. Whoever puts more than
    it holds is held back."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: list[Arrived] = []
        self._bell = Bell()
        self._has_room = asyncio.Event()
        self._is_client_gone = False

    async def put(self, strand: Strand, what: Chunk | ApiError | None) -> None:
        """Comes back once there is room for it."""
        while len(self._found) >= self._most:
            self._has_room.clear()
            await self._has_room.wait()
        self._found.append(Arrived(strand, what))
        self._bell.ring()

    def end(self) -> None:
        """The client is gone: nothing is to be taken any more."""
        self._is_client_gone = True
        self._bell.ring()

    async def take(self, seconds: float) -> list[Arrived]:
        """All that is there, as soon as there is anything; nothing where that takes longer. Raises ClientGone."""
        if not self._found and not self._is_client_gone:
            await self._bell.rung(seconds)
        if self._is_client_gone:
            raise ClientGone
        found, self._found = self._found, []
        self._has_room.set()
        return found

    def close(self) -> None:
        """Nobody takes any more."""
        self._bell.close()
