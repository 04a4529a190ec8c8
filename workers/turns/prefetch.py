"""A conversation's state, brought into RAM before the engine hears of the turn: no step waits for a disk or network."""

from __future__ import annotations

import asyncio

from workers.engine.events import Job
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.fetcher import Offer
from workers.kv.index import Key, packed
from workers.turns.ports import EnginePort, StateSource
from workers.turns.work import Work


class Prefetch:
    """Reads states from disk, or takes them from a peer, where those have more of the prompt than memory."""

    def __init__(self, engine: EnginePort, cache: OffloadCache, peers: StateSource) -> None:
        self._engine = engine
        self._cache = cache
        self._peers = peers

    async def bring(self, work: Work, job: Job, offer: Offer | None) -> None:
        """Comes back when nothing more is to come, or the turn is cancelled; notes the seconds of a transfer."""
        if not self._cache.has_files and offer is None:
            return
        key = Key(job.client, job.conversation)
        tokens = packed([*job.prompt, *job.resumed])
        resident = self._engine.snapshot.resident.get(key, 0)
        found = self._cache.find_on_disk(tokens, job.client, resident + MIN_OFFLOADED_TOKENS)
        if found is not None:
            await asyncio.to_thread(self._cache.load, found)
        if offer is not None:
            in_ram = self._cache.find(tokens, job.client)
            num_here = max(resident, in_ram.num_tokens if in_ram is not None else 0)
            work.notes.fetched(await self._fetch(work, offer, key, tokens, num_here))

    async def _fetch(self, work: Work, offer: Offer, key: Key, tokens: bytes, num_here: int) -> float | None:
        """Until it is there, given up, or the turn is cancelled."""
        fetching = asyncio.ensure_future(self._peers.fetch(offer, key, tokens, num_here))
        try:
            with work.cancelling(fetching.cancel):
                if work.cancel is None:
                    await asyncio.wait({fetching})
        finally:
            fetching.cancel()
        return fetching.result() if fetching.done() and not fetching.cancelled() else None
