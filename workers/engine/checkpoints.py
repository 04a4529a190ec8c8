"""What a slot whose state cannot be cut may be taken back to: copies of the part of its state that a window or a
recurrent layer moves on, at a few positions. Pure: it decides, `offloading` copies.

Layers that keep every token can be cut anywhere, so a checkpoint has none of them and is small. They are kept where a
conversation, or another one, comes back to: where messages end (the system's, which others share; the user's last one,
whose answer is asked for again or loses its thoughts; the answer, after which the next message may be edited), and
where two conversations were seen to part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from workers.engine.protocol import State

MIN_DISTANCE = 8
"""Tokens between two checkpoints of a slot: fewer are computed again, which takes about as long as a copy."""
MIN_STEP = 32
"""Tokens that a prompt's computation takes at once, at least, before it pauses for a checkpoint."""
BEFORE_END = 4
"""So many tokens are behind the checkpoint of a prompt that has no messages: its last token is computed in any case,
and with what is put behind it a tokenizer may merge a few."""
MAX_PER_SLOT = 6
CHECKPOINT_SHARE = 4
"""One byte in so many of those that may be kept of conversations in RAM is for checkpoints."""
NUM_LATEST = 2
"""The latest of a slot are what the next turn comes back to: they do not go for the slot's older ones."""
LATEST_WEIGHT = 4
"""Among all slots' a token of theirs counts as so many."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What cannot be cut of a sequence, as it was behind its first `num_tokens` tokens."""

    num_tokens: int
    state: State
    made_at: float
    is_passing: bool = False
    """Made within an answer, where a stop text may have begun: the next one takes its place."""


def stops(places: Iterable[int], num_reused: int) -> tuple[int, ...]:
    """Where a prompt's computation pauses for a checkpoint, in order: at those of the places that are far enough behind
    the last one, or what is reused. Of two that are close the earlier serves both."""
    found: list[int] = []
    for at in sorted(places):
        if at >= (found[-1] if found else num_reused) + MIN_STEP:
            found.append(at)
    return tuple(found)


class Checkpoints:
    """Those of all slots, within a cap of bytes. What saves the fewest tokens a byte goes first, then the oldest."""

    def __init__(self, max_bytes: int) -> None:
        """With 0 none are kept."""
        self._max_bytes = max_bytes
        self._slots: dict[int, list[Checkpoint]] = {}
        """Each slot's, in order of position."""

    @property
    def is_on(self) -> bool:
        """Whether any are kept."""
        return self._max_bytes > 0

    @property
    def num_bytes(self) -> int:
        """Of all; what slots share counts once."""
        return sum({id(one.state): len(one.state) for of_slot in self._slots.values() for one in of_slot}.values())

    def of(self, slot: int) -> list[Checkpoint]:
        """A slot's, in order of position."""
        return list(self._slots.get(slot, ()))

    def best(self, slot: int, num_tokens: int) -> Checkpoint | None:
        """The latest that is not behind `num_tokens` tokens."""
        return next((one for one in reversed(self._slots.get(slot, [])) if one.num_tokens <= num_tokens), None)

    def wants(self, slot: int, num_tokens: int, num_bytes: int) -> bool:
        """Whether one of so many bytes is worth being made there."""
        found = self.best(slot, num_tokens)
        distance = num_tokens - (found.num_tokens if found is not None else 0)
        return num_bytes <= self._max_bytes and distance >= MIN_DISTANCE

    def add(self, slot: int, checkpoint: Checkpoint) -> None:
        """Keeps it, the latest of its slot; what is worth least goes for it, which may be itself."""
        self.cut(slot, checkpoint.num_tokens - 1)
        lasting = [one for one in self._slots[slot] if not one.is_passing]
        self._slots[slot] = [*lasting, checkpoint]
        while len(self._slots[slot]) > MAX_PER_SLOT:
            self._remove_least({slot: MAX_PER_SLOT + 1 - NUM_LATEST})
        while self.num_bytes > self._max_bytes:
            self._remove_least({slot: len(of_slot) for slot, of_slot in self._slots.items()})

    def _remove_least(self, first: dict[int, int]) -> None:
        """Removes one of the first so many of some slots'."""
        worth = {
            (slot, index): (self._worth(slot, index), self._slots[slot][index].made_at)
            for slot, number in first.items()
            for index in range(number)
        }
        slot, index = min(worth, key=worth.__getitem__)
        del self._slots[slot][index]

    def _worth(self, slot: int, index: int) -> float:
        """Tokens that would be computed again without it, for each of its bytes."""
        of_slot = self._slots[slot]
        before = of_slot[index - 1].num_tokens if index else 0
        weight = LATEST_WEIGHT if index >= len(of_slot) - NUM_LATEST else 1
        return weight * (of_slot[index].num_tokens - before) / max(1, len(of_slot[index].state))

    def cut(self, slot: int, num_tokens: int) -> None:
        """The slot has only so many tokens from now on, or other ones behind them."""
        self._slots[slot] = [one for one in self._slots.get(slot, ()) if one.num_tokens <= num_tokens]

    def settle(self, slot: int) -> None:
        """A turn goes on from what the slot has: what was made in passing is an answer's end, and stays."""
        self._slots[slot] = [replace(one, is_passing=False) for one in self._slots.get(slot, ())]

    def share(self, source: int, target: int, num_tokens: int) -> None:
        """The target has the source's first tokens from now on, and nothing else."""
        self._slots[target] = [one for one in self._slots.get(source, ()) if one.num_tokens <= num_tokens]
