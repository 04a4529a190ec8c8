"""States copied out of the context and into it again: between the engine and the cache below it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from broker.messages import CachedIn, CutPoint
from workers.engine.checkpoints import Checkpoint
from workers.engine.protocol import Engine, State
from workers.engine.slots import Slots
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.index import Key, KvEntry, PrefixMatch, packed, split

MIN_RESTORED_TOKENS = 8
"""So many tokens more than the context has are worth a copy in memory: it takes what one or two take to compute."""

MAX_CARRIED = 4
"""Checkpoints that go with a state."""

Export = tuple[KvEntry, State] | None
"""A copy of a conversation's state; None where there is none."""


def carried(of_slot: list[Checkpoint], num_tokens: int, room: int) -> list[Checkpoint]:
    """Which of a slot's checkpoints, in order of position, go with its state of so many tokens, within `room` bytes:
    the latest, which the conversation comes back to, and of the others that which saves most."""
    positions = [0, *(one.num_tokens for one in of_slot)]
    saved = {id(one): one.num_tokens - before for before, one in zip(positions, of_slot, strict=False)}
    usable = [one for one in of_slot if one.num_tokens < num_tokens]
    latest, others = usable[1 - MAX_CARRIED :], usable[: 1 - MAX_CARRIED]
    found: list[Checkpoint] = []
    for one in [*reversed(latest), *sorted(others, key=lambda one: -saved[id(one)])][:MAX_CARRIED]:
        if len(one.state) <= room:
            room -= len(one.state)
            found.append(one)
    return sorted(found, key=lambda one: one.num_tokens)


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

    def num_shared(self, prefix: bytes, client: str) -> int:
        """How many of a prompt's tokens an offloaded state begins with, whether or not it can be cut there."""
        return self._cache.num_shared(prefix, client) if self._cache.is_on else 0

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
        entry, state, origin = taken
        whole, checkpoints = split(state, entry.cuts)
        by_position = {cut.num_tokens: one for cut, one in zip(entry.cuts, checkpoints, strict=True)}
        self._engine.truncate(index, 0)
        self._slots.checkpoints.cut(index, 0)
        done = self._engine.restore(index, whole) and self._shorten(index, found.num_tokens, by_position)
        if done:
            for position, one in by_position.items():
                if position <= found.num_tokens and self._slots.checkpoints.is_on:
                    self._slots.checkpoints.add(index, Checkpoint(position, bytes(one), started))
        else:
            self._engine.truncate(index, 0)
        self.copy_seconds += self._clock() - started
        return (found.num_tokens, origin) if done else None

    def _shorten(self, index: int, num_tokens: int, checkpoints: Mapping[int, State]) -> bool:
        """Leaves a state that was restored with its first tokens, by one of its checkpoints where that is the way."""
        if self._engine.truncate(index, num_tokens):
            return True
        return num_tokens in checkpoints and self._engine.rewind(index, num_tokens, checkpoints[num_tokens])

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

    def idle_states(self) -> Iterator[tuple[KvEntry, State]]:
        """What lies idle in the context, the latest used first, each copied as it is wanted."""
        if self._cache.is_on:
            for slot in reversed(self._slots.idle()):
                if (copied := self._copied(slot.index)) is not None:
                    yield copied

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
        room = self._cache.max_bytes - self._engine.state_bytes(index)
        if room < 0:
            return None
        started = self._clock()
        state = self._engine.save(index)
        checkpoints = carried(self._slots.checkpoints.of(index), len(slot.tokens), room)
        for one in checkpoints:
            state += one.state
        cuts = tuple(CutPoint(one.num_tokens, len(one.state)) for one in checkpoints)
        key = Key(slot.client, slot.conversation)
        self.copy_seconds += self._clock() - started
        used_at = time.time() - (self._clock() - slot.used_at)
        return KvEntry(key, packed(slot.tokens), len(state), slot.num_canonical, cuts, used_at), state
