"""Gives states to peers: opens what they ask for, and hands it out part by part, no faster than a limit."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from broker.messages import FetchOpen, FetchPart, FetchRefused, Opened, Remembered, StatePart, new_id
from workers.engine.protocol import State
from workers.kv.cache import MIN_OFFLOADED_TOKENS
from workers.kv.checks import StateLayout, checksum, cuts_checksum
from workers.kv.engine_port import EnginePort, States, num_tokens_here
from workers.kv.index import Key, split

IDLE_SECONDS = 15.0
"""After which a state that nobody reads is let go."""
MAX_TRANSFERS = 4


class Throttle:
    """So many bytes a second, in the order of asking."""

    def __init__(self, bytes_per_second: float) -> None:
        self._seconds_per_byte = 1 / bytes_per_second
        self._free_at = 0.0

    def delay(self, num_bytes: int, now: float) -> float:
        """Seconds to wait before so many bytes may go."""
        begin = max(now, self._free_at)
        self._free_at = begin + num_bytes * self._seconds_per_byte
        return begin - now


@dataclass
class _Transfer:
    """A state and its checkpoints on their way out. The bytes stay here while they are read, whatever becomes of the
    original."""

    state: State
    used_at: float


class Giver:
    """Answers the requests of peers. Few states are open at once, in half as many bytes as the cache has."""

    def __init__(
        self,
        engine: EnginePort,
        cache: States,
        layout: StateLayout,
        recall: Callable[[str, str], Remembered | None],
        *,
        max_bytes_per_second: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`recall(client, conversation)` is what is remembered of a conversation; 0 bytes a second are no limit."""
        self._engine = engine
        self._cache = cache
        self._layout = layout
        self._recall = recall
        self._throttle = Throttle(max_bytes_per_second or math.inf)
        self._clock = clock
        self._transfers: dict[str, _Transfer] = {}
        self._num_opening = 0
        self._num_reserved = 0
        """Bytes of those that are being opened, without their checkpoints."""
        self.given_bytes = 0
        """Sent to peers since the start."""

    async def open(self, request: FetchOpen) -> Opened | FetchRefused:
        """Finds a conversation's state where there is most of it, and holds a copy for its reader."""
        self._let_go_of_idle()
        key = Key(request.client, request.conversation)
        num_bytes = self._layout.state_bytes(num_tokens_here(self._engine, self._cache, key))
        if not self._has_room(num_bytes):
            return FetchRefused("busy")
        self._num_opening += 1
        self._num_reserved += num_bytes
        try:
            return await self._begin(key, num_bytes) or FetchRefused("gone")
        finally:
            self._num_opening -= 1
            self._num_reserved -= num_bytes

    async def part(self, request: FetchPart) -> StatePart | FetchRefused:
        """Some bytes of an open state, once they may go."""
        transfer = self._transfers.get(request.transfer)
        if transfer is None:
            return FetchRefused("gone")
        await asyncio.sleep(self._throttle.delay(request.size, self._clock()))
        transfer.used_at = self._clock()
        end = request.offset + request.size
        answer = StatePart(request.offset, bytes(memoryview(transfer.state)[request.offset : end]))
        self.given_bytes += len(answer.data)
        return answer

    def close(self, transfer: str) -> None:
        """Lets go of an open state; none of that name is no error."""
        self._transfers.pop(transfer, None)

    def close_all(self) -> None:
        """Lets go of all: who reads just now computes instead."""
        self._transfers.clear()

    def _has_room(self, num_bytes: int) -> bool:
        """States that are read are in memory besides those in the cache. Where none is, one of any size is opened.
        Checkpoints take what room there is then."""
        if not self._transfers and not self._num_opening:
            return True
        is_few = len(self._transfers) + self._num_opening < MAX_TRANSFERS
        return is_few and self._num_held + self._num_reserved + num_bytes <= self._cache.max_bytes // 2

    @property
    def _num_held(self) -> int:
        """Bytes that are open."""
        return sum(len(one.state) for one in self._transfers.values())

    async def _begin(self, key: Key, num_reserved: int) -> Opened | None:
        entry = self._cache.entry_of(key)
        num_resident = self._engine.snapshot.resident.get(key, 0)
        found = None
        if num_resident >= max(MIN_OFFLOADED_TOKENS, entry.num_tokens if entry is not None else 0):
            found = await asyncio.wrap_future(self._engine.export(key))
        found = found or await asyncio.to_thread(self._cache.copy_of, key)
        if found is None:
            return None
        what, state = found
        others = self._num_held + self._num_reserved - num_reserved
        if what.cuts and others and others + len(state) > self._cache.max_bytes // 2:
            what, state = what.without_cuts, await asyncio.to_thread(bytes, split(state, what.cuts)[0])
        whole, checkpoints = split(state, what.cuts)
        transfer = new_id()
        self._transfers[transfer] = _Transfer(state, self._clock())
        return Opened(
            transfer,
            self._layout.fingerprint,
            what.tokens,
            len(whole),
            what.num_canonical,
            await asyncio.to_thread(checksum, what.tokens, whole),
            self._recall(key.client, key.conversation),
            what.cuts,
            await asyncio.to_thread(cuts_checksum, checkpoints),
        )

    def _let_go_of_idle(self) -> None:
        until = self._clock() - IDLE_SECONDS
        for name, transfer in list(self._transfers.items()):
            if transfer.used_at < until:
                del self._transfers[name]
