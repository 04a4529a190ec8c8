"""Who has which slot, and who waits for one: the context's slots, and the offload cache below them.

Which slot, and what goes for it, is decided in `slots`; who is next, and who gives way, in `preemption`. This does what
they say to the engine's cells.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace

from workers.engine.active import ActiveJob, Place
from workers.engine.checkpoints import stops
from workers.engine.costs import CostModel
from workers.engine.events import LoopSnapshot
from workers.engine.offloading import Export, Offloading
from workers.engine.preemption import next_up, victim_of
from workers.engine.protocol import Engine, State
from workers.engine.sharing import Beginnings, leader_of
from workers.engine.slots import Seat, Slots
from workers.kv.cache import OffloadCache
from workers.kv.index import Key, KvEntry

log = logging.getLogger(__name__)


class Seating:
    """Gives jobs their slots and takes them back. Belongs to the engine's thread."""

    def __init__(self, engine: Engine, slots: Slots, cache: OffloadCache, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._slots = slots
        self._offloading = Offloading(engine, slots, cache, clock)
        self._clock = clock
        self._waiting: deque[ActiveJob] = deque()
        self._preempted: deque[ActiveJob] = deque()
        self._beginnings = Beginnings()

    # --- Who waits ---

    def add(self, active: ActiveJob) -> None:
        """It waits for a slot from now on, behind those that do already."""
        self._waiting.append(active)

    def withdraw(self, job_id: str) -> ActiveJob | None:
        """Takes a job that waits for its first slot out again; None where it does not."""
        found = next((one for one in self._waiting if one.id == job_id), None)
        if found is not None:
            self._waiting.remove(found)
            self._beginnings.forget(found)
        return found

    @property
    def num_waiting(self) -> int:
        """Jobs that never had a slot."""
        return len(self._waiting)

    def next_up(self, running: Collection[ActiveJob] = ()) -> ActiveJob | None:
        """Who is to be seated next; None when nobody waits for a slot, but at most for what a running job computes."""
        if not self._waiting:
            return next_up((), self._preempted)
        for one in running:
            if not one.is_preempted and not self._slots.canonical_chunk:
                self._slots.note(one.sequence.slot, one.sequence.tokens, one.sequence.num_computed)
        waiting = (one for one in self._waiting if not self._follows(one, running))
        # Where memory cannot be cut all that follow are looked at: whom they follow has to pause for each.
        return next_up(waiting if self._engine.can_remove_part else [*waiting], self._preempted)

    def has_place(self, running: Collection[ActiveJob]) -> bool:
        """Whether somebody who waits could have a slot: one is free, or a batch job may give way. True where memory
        cannot be cut: there a running job may have to pause for one who waits."""
        if self._slots.num_active < self._engine.num_slots or not self._engine.can_remove_part:
            return True
        may_take = self._offloading.is_on and not all(one.job.is_batch for one in self._waiting)
        return may_take and victim_of(running, self._engine.num_slots) is not None

    def _follows(self, active: ActiveJob, running: Iterable[ActiveJob]) -> bool:
        """Whether a running job is about to compute what this one begins with; one whose memory cannot be cut pauses
        there, so that it can be copied."""
        found = leader_of(active, running, self._slots, self._engine.is_whole, self._beginnings)
        if found is None:
            return False
        leader, num_tokens = found
        if not self._engine.can_remove_part:
            leader.sequence.stop_at(num_tokens)
        return True

    def preempt_for(self, active: ActiveJob, running: Iterable[ActiveJob]) -> ActiveJob | None:
        """Takes the slot of a batch job for an interactive one: the job that has to go on later, whose computed tokens
        stay in the slot until somebody needs the cells. None where none may go."""
        if active.job.is_batch or not self._offloading.is_on:
            return None
        victim = victim_of(running, self._engine.num_slots)
        if victim is None:
            return None
        sequence = victim.sequence
        self._slots.release(sequence.slot, sequence.tokens[: sequence.num_computed], 0, self._clock())
        victim.is_preempted = True
        self._preempted.append(victim)
        log.info("↷ turn set aside turn=%s tokens=%d", victim.id, len(sequence.tokens))
        return victim

    # --- A seat ---

    def seat(self, active: ActiveJob) -> Place | None:
        """Gives a job that waits, or was preempted, a slot that holds as much of its tokens as there is anywhere; None
        when it has to wait."""
        job, wanted = active.job, active.reusable_tokens
        seat = self._slots.seat(wanted, active.num_cells, job.client, job.conversation, self._engine.is_whole)
        if seat is None:
            return None
        prefix = self._offloading.prefix(wanted)
        if self._offloading.find(prefix, job.client, seat.num_reused) is not None:
            seat = self._slots.seat_empty(active.num_cells) or seat
        num_shared = 0
        if self._slots.checkpoints.is_on:
            num_shared = max(
                self._slots.num_shared(wanted, job.client), self._offloading.num_shared(prefix, job.client)
            )
        for index in seat.evicted:
            self._evict(index)
        place, seat = self._fill(seat, prefix, active)
        self._slots.take(seat, active.sequence.tokens, active.num_cells, job.client, job.conversation)
        if self._slots.canonical_chunk and place.cached_in not in (None, "context"):
            self._slots[seat.slot].num_canonical = place.num_cached
        self._expect_to_come_back(active, place, num_shared)
        (self._preempted if active.is_preempted else self._waiting).remove(active)
        self._beginnings.forget(active)
        return place

    def _expect_to_come_back(self, active: ActiveJob, place: Place, num_shared: int) -> None:
        """Sees to the checkpoints of a memory that cannot be cut: of what it goes on from now, and of what comes."""
        sequence = active.sequence
        if self._slots.checkpoints.is_on:
            self._slots.checkpoints.settle(place.slot)
            self._offloading.keep_checkpoint(place.slot, place.num_cached)
            found = self._slots.checkpoints.best(place.slot, place.num_cached)
            num_kept = found.num_tokens if found is not None else 0
            sequence.stops = stops((*active.boundaries, num_shared), num_kept)

    def keep_checkpoint(self, active: ActiveJob) -> None:
        """Has a checkpoint made if the job has just come to where one is wanted."""
        sequence = active.sequence
        if sequence.num_computed in sequence.stops:
            self._offloading.keep_checkpoint(sequence.slot, sequence.num_computed)
            self._slots.note(sequence.slot, sequence.tokens, sequence.num_computed)

    def keep_in_passing(self, active: ActiveJob) -> None:
        """Has a checkpoint made if the token that was just chosen may begin the job's stop text."""
        sequence = active.sequence
        if active.may_end_at == sequence.num_computed:
            self._offloading.keep_checkpoint(sequence.slot, sequence.num_computed, is_passing=True)

    def take_back(self, active: ActiveJob, num_tokens: int) -> int:
        """Leaves a running job's slot with its first `num_tokens` tokens, or with those before its last checkpoint
        within them; with how many."""
        slot, num_left = active.sequence.slot, num_tokens
        if not self._engine.truncate(slot, num_tokens):
            found = self._slots.checkpoints.best(slot, num_tokens)
            num_left = found.num_tokens if found is not None else 0
            num_left = num_left if self._offloading.cut(slot, num_left) else 0
        self._slots.cut(slot, num_left)
        return num_left

    def _fill(self, seat: Seat, prefix: bytes, active: ActiveJob) -> tuple[Place, Seat]:
        """Brings into the seat's slot what need not be computed: from the cache, from another slot, or from itself."""
        if not seat.num_reused:
            # Looked for again: what was evicted may have taken the place of what was found, or be found itself.
            restored = self._offloading.restore(seat.slot, prefix, Key(active.job.client, active.job.conversation))
            if restored is not None:
                self._forget_older(seat.slot, active, restored[0])
                # What was evicted for it is gone, and its checkpoints came with it.
                return Place(seat.slot, *restored), replace(seat, num_reused=restored[0], evicted=())
        seat = self._keep_prefix(seat, active.job.conversation)
        return Place(seat.slot, seat.num_reused, "context" if seat.num_reused else None), seat

    def _forget_older(self, index: int, active: ActiveJob, num_restored: int) -> None:
        """What other slots have of a conversation that was restored to more is of no use, and takes cells."""
        tokens, job = active.sequence.tokens[:num_restored], active.job
        for slot in self._slots.idle():
            is_its = (slot.client, slot.conversation) == (job.client, job.conversation) and slot.index != index
            if is_its and slot.tokens == tokens[: len(slot.tokens)] and not self._slots.canonical_chunk:
                self.clear(slot.index)

    def _keep_prefix(self, seat: Seat, conversation: str) -> Seat:
        """What the seat's slot holds, or its source, down to the prefix that is reused."""
        if seat.source is not None:
            done = self._offloading.copy(seat.source, seat.slot, seat.num_reused)
            return seat if done else replace(seat, num_reused=0, source=None)
        slot = self._slots[seat.slot]
        if slot.conversation != conversation and seat.num_reused < len(slot.tokens):
            self._offloading.offload(seat.slot)  # another one's, of which the beginning is of use
        # Where what those tokens look back on is gone, all of it is computed again.
        return seat if self._offloading.cut(seat.slot, seat.num_reused) else replace(seat, num_reused=0)

    # --- Leaving ---

    def release(self, active: ActiveJob) -> None:
        """The job is over. Its slot keeps what was computed, for the conversation's next turn: without a stop text,
        which that turn's prompt will not have."""
        if active.is_preempted:
            self._preempted.remove(active)
            return
        sequence = active.sequence
        num_canonical = 0
        if chunk := self._slots.canonical_chunk:
            num_canonical = min(sequence.num_computed, sequence.num_prompt_tokens) // chunk * chunk
        if active.detokenizer.stopped:
            num_kept = active.num_before_stop(self._engine.vocabulary)
            found = self._slots.checkpoints.best(sequence.slot, num_kept)
            num_least = found.num_tokens if found is not None else 0
            # What cannot be cut is taken back within the answer; without a checkpoint there the stop text stays.
            if self._engine.is_whole(sequence.slot, num_kept) or num_least > sequence.num_prompt_tokens:
                sequence.num_computed = self.take_back(active, num_kept)
        self._slots.release(sequence.slot, sequence.tokens[: sequence.num_computed], num_canonical, self._clock())

    def evict_oldest(self) -> bool:
        """Makes room where the engine finds no cells although they were counted: the idle slot that was used longest
        ago goes. False where none is idle."""
        victim = next(iter(self._slots.idle()), None)
        if victim is None:
            return False
        log.warning("cells short, evicted slot=%d tokens=%d", victim.index, len(victim.tokens))
        self._evict(victim.index)
        return True

    def _evict(self, index: int) -> None:
        self._offloading.offload(index)
        self.clear(index)

    def clear(self, index: int) -> None:
        """Forgets what is in an idle slot."""
        self._engine.truncate(index, 0)
        self._slots.clear(index)

    # --- What lies idle ---

    def rename(self, key: Key, name: str, tokens: list[int]) -> None:
        """What is kept of an answered turn, `tokens`, is the conversation `name`'s from now on."""
        self._slots.rename(key.client, key.conversation, name, tokens)

    def export(self, key: Key) -> Export:
        """A copy of the state of a conversation that lies idle in the context; None where there is none."""
        return self._offloading.export(key)

    def idle_states(self) -> Iterator[tuple[KvEntry, State]]:
        """What lies idle in the context, the latest used first, each copied as it is wanted."""
        return self._offloading.idle_states()

    def snapshot(self, num_active: int, costs: CostModel) -> LoopSnapshot:
        """How the loop stands, which has so many jobs running and learnt these costs."""
        return LoopSnapshot(
            num_active=num_active,
            num_waiting=len(self._waiting),
            num_cells_used=self._slots.num_cells_used,
            copy_seconds=self.copy_seconds,
            resident={Key(one.client, one.conversation): len(one.tokens) for one in self._slots.idle()},
            prefill_tokens_per_second=1 / costs.prefill_seconds_per_token,
            decode_tokens_per_second=1 / costs.decode(1),
        )

    @property
    def copy_seconds(self) -> float:
        """Spent on copying states out of the context and into it, since the start."""
        return self._offloading.copy_seconds
