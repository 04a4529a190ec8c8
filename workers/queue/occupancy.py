"""Who occupies a worker's slots, who waits for them, and for whom there is room. Pure."""

from __future__ import annotations

from broker.delivery import Delivery
from broker.priorities import BATCH, INTERACTIVE, PRIORITIES, Priority
from workers.engine.preemption import batch_reserve


class Occupancy:
    """The turns that were taken and not freed yet. With `can_preempt` interactive turns are taken for the slots of
    batch turns too, but for batch's share."""

    def __init__(self, num_slots: int, *, can_preempt: bool = False) -> None:
        self._can_preempt = can_preempt
        self._batch: set[int] = set()
        """Deliveries of batch turns that are held, by identity."""
        self.num_slots = num_slots
        self.num_held = 0
        """Turns that were taken and not freed yet."""
        self.pending = dict.fromkeys(PRIORITIES, 0)
        """Turns in the model's queue by priority, as of its last pull."""

    def take(self, delivery: Delivery, priority: Priority) -> None:
        """A turn of that priority was taken."""
        self.num_held += 1
        if priority == BATCH:
            self._batch.add(id(delivery))
        self.note_pending(priority, delivery.num_pending)

    def free(self, delivery: Delivery) -> None:
        """A turn that was taken is settled."""
        self.num_held -= 1
        self._batch.discard(id(delivery))

    def note_pending(self, priority: Priority, num_turns: int) -> None:
        """So many turns of that priority are in the model's queue."""
        self.pending[priority] = num_turns

    @property
    def num_pending(self) -> int:
        """Turns in the model's queue, of all priorities."""
        return sum(self.pending.values())

    def num_ahead(self, priority: Priority) -> int:
        """How many turns one that is queued now would wait for: batch for all of them, interactive not for batch, nor
        for the slots of batch turns that it may preempt."""
        room, held, queued = self.num_slots, self.num_held, self.num_pending
        if priority == INTERACTIVE:
            queued = self.pending[INTERACTIVE]
            if self._can_preempt:
                room -= self._num_kept_for_batch
                held -= len(self._batch)
        return queued + max(0, held + 1 - room)

    def has_room(self, priority: Priority) -> bool:
        """Whether a turn of that priority could be seated."""
        if self.num_held < self.num_slots:
            return True
        if priority != INTERACTIVE or not self._can_preempt:
            return False
        return self.num_held - len(self._batch) < self.num_slots - self._num_kept_for_batch

    @property
    def _num_kept_for_batch(self) -> int:
        return min(len(self._batch), batch_reserve(self.num_slots))
