"""States copied out of the context and into it again: between the engine and the cache below it."""

from __future__ import annotations

from collections.abc import Callable

from broker.messages import CachedIn
from workers.engine.checkpoints import Checkpoint
from workers.engine.protocol import Engine, State
from workers.engine.slots import Slots
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.index import Key, KvEntry, PrefixMatch, packed

MIN_RESTORED_TOKENS = 8
"""So many tokens more than the context has are worth a copy in memory: it takes what one or two take to compute."""

Export = tuple[KvEntry, State] | None
"""A copy of a conversation's state; None where there is none."""


class Offloading:
    """Copies idle slots' states into the cache, and back from there. Belongs to the engine's thread."""

    def __init__(self, engine: Engine, slots: Slots, cache: OffloadCache, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._slots = slots
        self._cache = cache
        self._clock = clock
        self.copy_seconds = 0.0
        """Spent on copying since the start."""

    @property
    def is_on(self) -> bool:
        """Whether anything is offloaded at all."""
        return self._cache.is_on

    def prefix(self, tokens: list[int]) -> bytes:
        """The tokens as `find` and `restore` want them."""
        return packed(tokens) if self._cache.is_on else b""

    def find(self, prefix: bytes, client: str, num_resident: int) -> PrefixMatch | None:
        """An offloaded state that saves more than the `num_resident` tokens in the context do, and more than copying it
        costs."""
        if not self._cache.is_on:
            return None
        found = self._cache.find(prefix, client)
        return found if found is not None and found.num_tokens >= num_resident + MIN_RESTORED_TOKENS else None

    def restore(self, index: int, prefix: bytes, owner: Key) -> tuple[int, CachedIn] | None:
        """Copies the best offloaded state into a slot, which is emptied for it: how many tokens it saves, and where it
        was. None where there is none of use, or no cells for it; then the slot is empty, or as it was.

        The owner's own state is taken out of the cache, another's stays there too.
        """
        found = self.find(prefix, owner.client, 0)
        if found is None:
            return None
        started = self._clock()
        taken = self._cache.take(found.entry.key, keep=found.entry.key != owner)
        if taken is None:
            return None
        state, origin = taken
        self._engine.truncate(index, 0)
        done = self._engine.restore(index, state) and self._engine.truncate(index, found.num_tokens)
        if not done:
            self._engine.truncate(index, 0)
        self.copy_seconds += self._clock() - started
        return (found.num_tokens, origin) if done else None

    def keep_checkpoint(self, index: int, num_tokens: int, *, is_passing: bool = False) -> None:
        """Copies what cannot be cut of a slot that has exactly so many tokens, where that is worth it."""
        checkpoints = self._slots.checkpoints
        if not checkpoints.is_on or not checkpoints.wants(index, num_tokens, self._engine.checkpoint_bytes(index)):
            return
        started = self._clock()
        checkpoints.add(index, Checkpoint(num_tokens, self._engine.checkpoint(index), started, is_passing))
        self.copy_seconds += self._clock() - started

    def cut(self, index: int, num_tokens: int) -> bool:
        """Leaves a slot with its first `num_tokens` tokens, by a checkpoint where there is no other way; False where
        there is none, and the slot is empty."""
        if self._engine.truncate(index, num_tokens):
            return True
        if (found := self._at(index, num_tokens)) is None:
            self._engine.truncate(index, 0)
            return False
        started = self._clock()
        done = self._engine.rewind(index, num_tokens, found.state)
        self.copy_seconds += self._clock() - started
        return done

    def copy(self, source: int, target: int, num_tokens: int) -> bool:
        """Gives an empty slot another one's first tokens, by a checkpoint where there is no other way; False where
        there is none."""
        if self._engine.copy(source, target, num_tokens):
            return True
        if (found := self._at(source, num_tokens)) is None:
            return False
        started = self._clock()
        done = self._engine.copy_rewound(source, target, num_tokens, found.state)
        self.copy_seconds += self._clock() - started
        return done

    def _at(self, index: int, num_tokens: int) -> Checkpoint | None:
        found = self._slots.checkpoints.best(index, num_tokens)
        return found if found is not None and found.num_tokens == num_tokens else None

    def offload(self, index: int) -> None:
        """Copies an idle slot's state out of the context, where it is worth it; the slot is as it was."""
        if not self._cache.is_on or (copied := self._copied(index)) is None:
            return
        started = self._clock()
        self._cache.offload(*copied)
        self.copy_seconds += self._clock() - started

    def offload_all(self) -> None:
        """What lies idle in the context, the latest used last."""
        for slot in self._slots.idle():
            self.offload(slot.index)

    def export(self, key: Key) -> Export:
        """The longest state of a conversation that lies idle in the context."""
        slots = (slot for slot in self._slots.idle() if Key(slot.client, slot.conversation) == key)
        slot = max(slots, key=lambda one: len(one.tokens), default=None)
        return self._copied(slot.index) if slot is not None else None

    def _copied(self, index: int) -> Export:
        slot = self._slots[index]
        assert not slot.is_active
        if len(slot.tokens) < MIN_OFFLOADED_TOKENS:
            return None
        if not self._engine.is_whole(index, len(slot.tokens)):
            return None
        num_bytes = self._engine.state_bytes(index)
        if num_bytes > self._cache.max_bytes:
            return None
        started = self._clock()
        entry = KvEntry(Key(slot.client, slot.conversation), packed(slot.tokens), num_bytes, slot.num_canonical)
        state = self._engine.save(index)
        self.copy_seconds += self._clock() - started
        return entry, state
