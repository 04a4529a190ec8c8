"""What giving and fetching states needs of the engine loop and of what is kept outside of it, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Protocol

from workers.engine.protocol import State
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


class States(Protocol):
    """Where states are kept outside of a context. Implemented by workers.kv.cache.OffloadCache, and by
    workers.kv.board_store.KeptStates for who has no engine."""

    @property
    def max_bytes(self) -> int:
        """As many may be given at once in half of it."""
        ...

    def keys(self) -> list[Key]:
        """Of all conversations here, the longest unused first."""
        ...

    def entry_of(self, key: Key) -> KvEntry | None:
        """What of a conversation is here; the longest."""
        ...

    def copy_of(self, key: Key) -> tuple[KvEntry, State] | None:
        """A conversation's state for somebody else; it stays where it is. Blocks."""
        ...


def num_tokens_here(engine: EnginePort, cache: States, key: Key) -> int:
    """How many tokens of a conversation are in the context or in the cache, whichever has more."""
    entry = cache.entry_of(key)
    return max(engine.snapshot.resident.get(key, 0), entry.num_tokens if entry is not None else 0)


class NoContext:
    """An EnginePort and its snapshot where there is no engine: nothing is in a context."""

    resident: Mapping[Key, int] = MappingProxyType({})
    prefill_tokens_per_second: float | None = None

    @property
    def snapshot(self) -> ContextSnapshot:
        """Always the same."""
        return self

    def export(self, key: Key) -> Future[tuple[KvEntry, State] | None]:
        """None, at once."""
        future: Future[tuple[KvEntry, State] | None] = Future()
        future.set_result(None)
        return future
