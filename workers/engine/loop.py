"""The engine loop: one thread, one context. Takes jobs, runs steps, tells what came of them, a list of events a round.

A round is always the same: seat whom there is room for, decode, update, outputs, finish. `Seating` knows the slots,
`Scheduler` what the next step computes, `Outputs` what its logits come to; only the loop lets a job go.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace

from workers.engine.accounts import Accounts
from workers.engine.active import ActiveJob, Place
from workers.engine.calibration import UNMEASURED, Calibration
from workers.engine.drafting import Drafting
from workers.engine.events import Event, Finished, Job, LoopSnapshot, Lost, Rejected
from workers.engine.inbox import Inbox
from workers.engine.offloading import Export
from workers.engine.outputs import Ending, Outputs
from workers.engine.power import Power
from workers.engine.protocol import Engine, EngineLost, KvCacheFull, State, TokenSampler
from workers.engine.scheduler import Scheduler, Step
from workers.engine.seating import Seating
from workers.engine.slots import Slots
from workers.engine.threads import StepThreads
from workers.kv.cache import OffloadCache
from workers.kv.index import Key, KvEntry

LATE_SECONDS = 0.002
"""Between two looks at a grammar that is late, where there is nothing else to do."""

log = logging.getLogger(__name__)


class EngineLoop:
    """Owns the engine, the scheduler and the slots from `start` to `stop`."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        slots: Slots,
        cache: OffloadCache,
        *,
        threads: StepThreads | None = None,
        on_step: Callable[[Step, float], None] | None = None,
        power: Power | None = None,
        calibration: Calibration = UNMEASURED,
        drafting: Drafting | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`threads` chooses their number from step to step; without it they stay as they are. `on_step` is told of each
        step and its seconds, in this loop's thread; `power` is what the node draws, of which each turn gets its share;
        `calibration` is what was measured before there was a loop; without `drafting` no tokens are guessed."""
        self.engine = engine
        """What computes: its sizes and its vocabulary are for everybody, all else is this loop's thread's."""
        self._scheduler = scheduler
        self._drafting = drafting or Drafting(None, 0)
        self._clock = clock
        self._inbox = Inbox(clock)
        self._seating = Seating(engine, slots, cache, clock)
        self._events: list[Event] = []
        take_back = self._seating.take_back
        self._outputs = Outputs(
            engine, self._events.append, take_back, slots.canonical_chunk, clock, self._drafting.foresee
        )
        self._accounts = Accounts(engine, threads, on_step, power)
        self._running: dict[str, ActiveJob] = {}
        """Jobs that have a slot, or had to give theirs away for a while."""
        self._deliver: Callable[[list[Event]], None] = lambda events: None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.calibration = calibration
        self.snapshot = LoopSnapshot()
        """How the loop was after its last round."""
        if calibration.decode_seconds is not None:
            self.snapshot = self._seating.snapshot(0, scheduler.costs)

    # --- Called from anywhere ---

    def start(self, deliver: Callable[[list[Event]], None]) -> None:
        """Starts the thread; `deliver` is called in it after each round that has something to tell."""
        self._deliver = deliver
        self._thread.start()

    def submit(self, job: Job) -> None:
        """A job to be computed. Its events follow, the last of which is Finished, Rejected or Lost."""
        self._inbox.submit(job)

    def cancel(self, job_id: str) -> None:
        """Ends a job within a step, waiting or seated; it is Finished with the reason `cancelled`."""
        self._inbox.cancel(job_id)

    def rename(self, key: Key, name: str, tokens: list[int]) -> None:
        """What is kept of an answered turn, `tokens`, is the conversation `name`'s from now on."""
        self._inbox.rename(key, name, tokens)

    def export(self, key: Key) -> Future[Export]:
        """A copy of a conversation's state that lies idle in the context, made between steps; None without one."""
        return self._inbox.export(key)

    @property
    def stuck_seconds(self) -> float:
        """How long the round that runs just now has taken; 0 while there is nothing to do."""
        return self._inbox.busy_seconds

    @property
    def has_ended(self) -> bool:
        """Whether the thread was started and is no more."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def stop(self) -> None:
        """Ends the thread after the step that runs; what is seated is dropped."""
        self._inbox.stop()
        if self._thread.is_alive():
            self._thread.join()

    def idle_states(self) -> Iterator[tuple[KvEntry, State]]:
        """What is left in the context, the latest used first, each copied as it is wanted. Only without a thread."""
        assert not self._thread.is_alive()
        return self._seating.idle_states()

    # --- The thread, or a test that has started none ---

    def _run(self) -> None:
        try:
            while self.take_orders():
                if events := self.run_round():
                    self._deliver(events)
        except EngineLost as error:
            log.error("engine lost reason=%s", error)
            self._events.append(Lost(str(error)))
        except Exception as error:
            # A fault of ours: what is in the context is not known any more, and no turn may wait for it for ever.
            log.exception("engine loop failed")
            self._events.append(Lost(f"{type(error).__name__}: {error}"))
        finally:
            self._inbox.close()
            if events := self._told():
                self._deliver(events)

    def _told(self) -> list[Event]:
        self.snapshot = replace(
            self._seating.snapshot(len(self._running), self._scheduler.costs),
            num_drafted=self._drafting.num_drafted,
            num_accepted=self._drafting.num_accepted,
        )
        events = self._events[:]
        self._events.clear()
        return events

    @property
    def has_work(self) -> bool:
        """Whether there is something to do, and not only to wait for."""
        return bool(self._running or self._seating.num_waiting) or not self._inbox.is_empty

    def take_orders(self) -> bool:
        """Waits for something to do, and notes what others want; False when it is time to stop."""
        orders = self._inbox.take(has_work=self.has_work)
        if orders is None:
            return True
        for job, submitted_at in orders.jobs:
            active = ActiveJob.of(job, submitted_at)
            if (reason := self._outputs.replay(active)) is not None:
                self._events.append(active.finished(reason))
            else:
                self._seating.add(active)
        for key, name, tokens in orders.renames:
            self._seating.rename(key, name, tokens)
        for job_id in orders.cancelled:
            self._cancel(job_id)
        return not orders.is_over

    def run_round(self) -> list[Event]:
        """Hands out a copy, seats whom there is room for, runs a step; what came of it. Raises EngineLost."""
        if (wanted := self._inbox.next_export()) is not None:
            key, future = wanted
            future.set_result(self._seating.export(key))
        self._seat_waiting()
        late = [active for active in self._running.values() if active.is_late]
        for active in late:
            if (ending := self._outputs.take_late(active)) is not None:
                self._end(active, ending)
        step = self._scheduler.schedule(self._clock())
        if step:
            self._run_step(step)
        elif any(active.is_late for active in late):
            time.sleep(LATE_SECONDS)
        return self._told()

    # --- A job's way: seated, ended ---

    def _cancel(self, job_id: str) -> None:
        if (active := self._running.get(job_id)) is not None:
            self._outputs.flush(active)
            self._end(active, "cancelled")
        elif (waiting := self._seating.withdraw(job_id)) is not None:
            self._events.append(Finished(job_id, "cancelled", len(waiting.job.prompt), 0, 0, 0.0, 0.0))

    def _seat_waiting(self) -> None:
        # What states are copied for it is work of a step: past its bound the streams come first.
        until = self._seating.copy_seconds + self._scheduler.step_bound()
        running = self._running.values()
        while (
            self._seating.copy_seconds < until
            and self._seating.has_place(running)
            and (active := self._seating.next_up(running)) is not None
        ):
            while (place := self._seating.seat(active)) is None:
                victim = self._seating.preempt_for(active, running)
                if victim is None:
                    return
                self._scheduler.remove(victim.sequence)
            self._begin(active, place)

    def _begin(self, active: ActiveJob, place: Place) -> None:
        is_new = not active.is_preempted
        active.take(place)
        self._scheduler.add(active.sequence)
        self._running[active.id] = active
        if is_new and (ending := self._outputs.open(active)) is not None:
            self._end(active, ending)
        elif is_new:
            self._events.append(active.seated(self._clock(), place))

    def _end(self, active: ActiveJob, ending: Ending) -> None:
        """Lets a job go: tells of its end, and gives back what it had."""
        self._events.append(ending if isinstance(ending, Rejected) else active.finished(ending))
        del self._running[active.id]
        if active.sampler is not None:
            active.sampler.close()
        if not active.is_preempted:
            self._scheduler.remove(active.sequence)
        self._drafting.forget(active.sequence)
        self._seating.release(active)

    # --- A step ---

    def _run_step(self, step: Step) -> None:
        self._accounts.prepare(step)
        started = self._clock()
        try:
            filled = self._drafting.fill(step, self._scheduler.step_bound(), self._sampler_of)
            step, rows = self._decode(step, filled)
        except KvCacheFull:
            # Although they were counted: an idle slot goes, or else the youngest job.
            if not self._seating.evict_oldest():
                self._end_youngest(step)
            return
        self._scheduler.update(step)
        endings: list[tuple[ActiveJob, Ending]] = []
        for sequence, span, outputs in zip(step.sequences, step.spans, rows, strict=True):
            active = self._running[sequence.id]
            self._seating.keep_checkpoint(active)
            if active.tells_progress and span.start < sequence.num_prompt_tokens:
                self._events.append(active.computed(span.end, self._clock()))
            ending = self._outputs.take(active, span, outputs)
            self._seating.keep_in_passing(active)
            if ending is not None:
                endings.append((active, ending))
        self._drafting.note(step)
        now = self._clock()
        # Another model's steps say nothing of what this one's take.
        computing = now - started - self._drafting.proposing_seconds
        self._scheduler.observe(step, computing)
        self._accounts.note(step, now - started, now, self._running, computing)
        for active, ending in endings:
            self._end(active, ending)

    def _sampler_of(self, name: str) -> TokenSampler | None:
        return self._running[name].sampler

    def _decode(self, step: Step, filled: Step) -> tuple[Step, list[list[int]]]:
        """Computes the step, with its guesses if there are cells for them. Raises KvCacheFull, EngineLost."""
        if filled is not step:
            with contextlib.suppress(KvCacheFull):
                return filled, self.engine.decode(list(filled.spans))
        return step, self.engine.decode(list(step.spans))

    def _end_youngest(self, step: Step) -> None:
        youngest = max(step.sequences, key=lambda sequence: sequence.arrived_at)
        detail = "the KV cache has no room for this turn just now"
        self._end(self._running[youngest.id], Rejected(youngest.id, "overloaded", detail, retryable=True))
        self._seating.clear(youngest.slot)
