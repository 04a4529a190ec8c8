"""What giving and fetching states needs of the engine loop, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Protocol

from workers.engine.protocol import State
from workers.kv.cache import OffloadCache
from workers.kv.index import Key, KvEntry


class ContextSnapshot(Protocol):
    """How the context stood after a step."""

    @property
    def resident(self) -> Mapping[Key, int]:
        """The number of tokens of each conversation in the context."""
        ...

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """How fast prompts are computed; None until it was measured."""
        ...


class EnginePort(Protocol):
    """Implemented by workers.engine.loop.EngineLoop. From any thread."""

    @property
    def snapshot(self) -> ContextSnapshot:
        """The latest; may be a step old."""
        ...

    def export(self, key: Key) -> Future[tuple[KvEntry, State] | None]:
        """A copy of a conversation's state that lies idle in the context; None where there is none."""
        ...


def num_tokens_here(engine: EnginePort, cache: OffloadCache, key: Key) -> int:
    """How many tokens of a conversation are in the context or in the cache, whichever has more."""
    entry = cache.entry_of(key)
    return max(engine.snapshot.resident.get(key, 0), entry.num_tokens if entry is not None else 0)
