"""The engine loop: one thread, one context. Takes jobs, runs steps, tells what came of them.

The asyncio side talks to it by `submit` and `cancel` and hears from it by events, a list for each step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from broker.errors import TurnRejected
from broker.messages import CachedIn, FinishReason, Score, TokenLogprob
from workers.engine.calibration import UNMEASURED, Calibration
from workers.engine.detokenizer import Detokenizer
from workers.engine.events import Event, Finished, Generated, Job, LoopSnapshot, Lost, Rejected, Seated
from workers.engine.power import Power
from workers.engine.protocol import PENDING, Engine, EngineLost, KvCacheFull, Span, State, TokenSampler
from workers.engine.scheduler import Scheduler, Step
from workers.engine.sequence import Sequence
from workers.engine.slots import Seat, Slots, common_prefix
from workers.engine.threads import PREFILL, Threads
from workers.kv.cache import MIN_OFFLOADED_TOKENS, OffloadCache
from workers.kv.index import Key, KvEntry, PrefixMatch, packed
from workers.prompts.spoken import as_spoken

BATCH_EVERY = 8
"""Batch's share: of so many turns, or slots, one."""
MIN_RESTORED_TOKENS = 8
"""So many tokens more than the context has are worth a copy in memory: it takes what one or two take to compute."""

LATE_SECONDS = 0.002
"""Between two looks at a grammar that is late, where there is nothing else to do."""

log = logging.getLogger(__name__)


def batch_reserve(num_slots: int) -> int:
    """How many slots interactive turns cannot take from batch ones."""
    return max(1, num_slots // BATCH_EVERY)


Export = tuple[KvEntry, State] | None


@dataclass
class _Running:
    """A seated job."""

    job: Job
    sequence: Sequence
    sampler: TokenSampler | None
    detokenizer: Detokenizer
    cached_in: CachedIn | None = None
    prefill_seconds: float = 0.0
    joules: float | None = None
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    scores: list[Score] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_greedy: bool = True
    is_preempted: bool = False
    is_late: bool = False
    """Its grammar has not said yet which token may follow: the others go on without it."""


class EngineLoop:
    """Owns the engine, the scheduler and the slots from `start` to `stop`."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        slots: Slots,
        cache: OffloadCache,
        *,
        canonical_chunk: int = 0,
        threads: Threads | None = None,
        on_step: Callable[[Step, float], None] | None = None,
        power: Power | None = None,
        calibration: Calibration = UNMEASURED,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`threads` chooses their number from step to step; without it they stay as they are. `on_step` is told of each
        step and its seconds, in this loop's thread; `power` is what the node draws, of which each turn gets its share;
        `calibration` is what was measured before there was a loop."""
        self._engine = engine
        self._scheduler = scheduler
        self._slots = slots
        self._canonical_chunk = canonical_chunk
        self._cache = cache
        self._threads = threads
        self._on_step = on_step
        self._power = power or Power()
        self._clock = clock
        self._copy_seconds = 0.0
        self._changed = threading.Condition()
        self._submitted: deque[tuple[Job, float]] = deque()
        self._cancelled: set[str] = set()
        self._exports: deque[tuple[Key, Future[Export]]] = deque()
        self._renames: deque[tuple[Key, str, list[int]]] = deque()
        self._stopping = False
        self._waiting: deque[tuple[Job, float]] = deque()
        self._running: dict[str, _Running] = {}
        self._preempted: deque[_Running] = deque()
        """Batch turns that gave their slots to interactive ones, and go on when there are some again."""
        self._events: list[Event] = []
        self._deliver: Callable[[list[Event]], None] = lambda events: None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._busy_since: float | None = None
        self.calibration = calibration
        """What was measured of this engine before the loop was made."""
        self.snapshot = LoopSnapshot() if calibration.decode_seconds is None else self._snapshot()

    @property
    def engine(self) -> Engine:
        """What computes: its sizes and its vocabulary are for everybody, all else is this loop's thread's."""
        return self._engine

    # --- Called from anywhere ---

    def start(self, deliver: Callable[[list[Event]], None]) -> None:
        """Starts the thread; `deliver` is called in it after each step."""
        self._deliver = deliver
        self._thread.start()

    def submit(self, job: Job) -> None:
        with self._changed:
            self._submitted.append((job, self._clock()))
            self._changed.notify()

    def cancel(self, job: str) -> None:
        """Ends a job within a step, waiting or seated; it is Finished with the reason `cancelled`."""
        with self._changed:
            self._cancelled.add(job)
            self._changed.notify()

    def rename(self, key: Key, name: str, tokens: list[int]) -> None:
        """What is kept of an answered turn, `tokens`, is the conversation `name`'s from now on."""
        with self._changed:
            self._renames.append((key, name, tokens))
            self._changed.notify()

    def export(self, key: Key) -> Future[Export]:
        """A copy of a conversation's state that lies idle in the context, made between two steps; None where there is
        none."""
        future: Future[Export] = Future()
        with self._changed:
            if self._stopping:
                future.set_result(None)
            else:
                self._exports.append((key, future))
                self._changed.notify()
        return future

    @property
    def stuck_seconds(self) -> float:
        """How long the round that runs just now has taken; 0 while there is nothing to do."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    @property
    def has_ended(self) -> bool:
        """Whether the thread was started and is no more."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def stop(self) -> None:
        """Ends the thread after the step that runs; what is seated is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    # --- The thread ---

    def _run(self) -> None:
        try:
            while self._take_orders():
                self._turn_over()
        except EngineLost as error:
            log.error("engine lost reason=%s", error)
            self._events.append(Lost(str(error)))
        except Exception as error:
            # A fault of ours: what is in the context is not known any more, and no turn may wait for it for ever.
            log.exception("engine loop failed")
            self._events.append(Lost(f"{type(error).__name__}: {error}"))
        finally:
            with self._changed:
                self._stopping = True
                while self._exports:
                    self._exports.popleft()[1].set_result(None)
            self._flush()

    def _turn_over(self) -> None:
        """One round: hand out a copy, seat what fits, run a step, tell."""
        if self._exports:
            self._export(*self._exports.popleft())
        self._seat_waiting()
        self._take_late()
        step = self._scheduler.schedule(self._clock())
        if step:
            self._run_step(step)
        elif any(running.is_late for running in self._running.values()):
            time.sleep(LATE_SECONDS)
        self._flush()

    def _take_orders(self) -> bool:
        """Waits for something to do; False when it is time to stop."""
        with self._changed:
            self._busy_since = None
            while not self._has_orders():
                self._changed.wait()
            self._busy_since = self._clock()
            self._waiting.extend(self._submitted)
            self._submitted.clear()
            cancelled, self._cancelled = self._cancelled, set()
            while self._renames:
                key, name, tokens = self._renames.popleft()
                self._slots.rename(key.client, key.conversation, name, tokens)
            stopping = self._stopping
        for job in cancelled:
            self._cancel(job)
        return not stopping

    def _has_orders(self) -> bool:
        orders = (self._submitted, self._cancelled, self._exports, self._renames, self._waiting, self._running)
        return self._stopping or any(orders)

    def _cancel(self, job: str) -> None:
        if running := self._running.get(job):
            self._finish(running, "cancelled")
            return
        for entry in self._waiting:
            if entry[0].id == job:
                self._waiting.remove(entry)
                self._events.append(Finished(job, "cancelled", len(entry[0].prompt), 0, 0, 0.0, 0.0))
                return

    def _seat_waiting(self) -> None:
        # In order: a large turn is not overtaken for ever by small ones. What states are copied for it is work of a
        # step: past its bound the streams come first.
        until = self._copy_seconds + self._scheduler.step_bound()
        while self._copy_seconds < until:
            entry = next((one for one in self._waiting if not one[0].is_batch), None)
            if entry is None and self._preempted:
                if not self._resume(self._preempted[0]):
                    return
                continue
            entry = entry or (self._waiting[0] if self._waiting else None)
            if entry is None:
                return
            try:
                while not self._seat(*entry):
                    if entry[0].is_batch or not self._preempt():
                        return
            except TurnRejected as error:
                self._events.append(Rejected(entry[0].id, error.code, error.detail, error.retryable))
            self._waiting.remove(entry)

    def _seat(self, job: Job, arrived_at: float) -> bool:
        detokenizer = Detokenizer(job.sampling.stop)
        if (reason := self._replay(job, detokenizer)) is not None:
            # All was sent, and only the end was not written.
            self._events.append(
                Finished(job.id, reason, len(job.prompt), 0, len(job.resumed), 0.0, 0.0, (*job.prompt, *job.resumed))
            )
            return True
        tokens = [*job.prompt, *job.resumed]
        first_output = len(tokens) - 1 if job.resumed else -1
        if job.continuations:
            known, begin = job.continuations[0]
            tokens, first_output = list(known), begin - 1
        num_cells = len(job.prompt) + job.max_tokens
        placed = self._place(job, tokens, tokens[: first_output + 1] if job.continuations else tokens, num_cells)
        if placed is None:
            return False
        seat, cached_in = placed
        num_cached = seat.num_reused
        sequence = Sequence(
            id=job.id,
            tokens=tokens,
            num_prompt_tokens=len(tokens) if job.continuations else len(job.prompt),
            max_tokens=job.max_tokens,
            arrived_at=arrived_at,
            slot=seat.slot,
            num_computed=num_cached,
            num_cached=num_cached,
            first_output=first_output,
            num_to_come=job.num_to_score(1),
        )
        sampler = None
        try:
            if not job.continuations:
                sampler = self._engine.sampler(job.sampling, tokens, job.gbnf)
        except Exception as error:
            self._slots.release(seat.slot, tokens[:num_cached], 0, self._clock())
            if isinstance(error, TurnRejected):
                raise
            log.exception("turn failed in the engine turn=%s", job.id)
            raise TurnRejected("internal_error", type(error).__name__, retryable=True) from None
        self._scheduler.add(sequence)
        self._running[job.id] = _Running(job, sequence, sampler, detokenizer, cached_in)
        self._events.append(Seated(job.id, num_cached, cached_in))
        return True

    def _place(
        self, job: Job, tokens: list[int], wanted: list[int], num_cells: int
    ) -> tuple[Seat, CachedIn | None] | None:
        """Takes a slot that holds as much of `wanted` as there is anywhere; None when it has to wait."""
        seat = self._slots.seat(wanted, num_cells, job.client, job.conversation, self._engine.is_whole)
        if seat is None:
            return None
        prefix = packed(wanted) if self._cache.is_on else b""
        if self._find_offloaded(job, prefix, seat.num_reused) is not None:
            seat = self._slots.seat_empty(num_cells) or seat
        for index in seat.evicted:
            self._offload(index)
            self._engine.truncate(index, 0)
            self._slots.clear(index)
        cached_in: CachedIn | None
        restored = None if seat.num_reused else self._restore(job, prefix, seat)
        if restored is not None:
            seat, cached_in = restored
        else:
            seat = self._keep_prefix(seat, job)
            cached_in = "context" if seat.num_reused else None
        self._slots.take(seat, tokens, num_cells, job.client, job.conversation)
        if restored is not None and self._canonical_chunk:
            self._slots[seat.slot].num_canonical = seat.num_reused
        return seat, cached_in

    # --- Preemption ---

    def _preempt(self) -> bool:
        """Sets a batch turn aside for an interactive one, the latest first; False where none may go.

        A slot in eight, and at least one, stays with batch: its share.
        """
        batch = [one for one in self._running.values() if one.job.is_batch and not one.is_preempted]
        able = [one for one in batch if not one.job.continuations and not one.is_late]
        if not self._cache.is_on or not able or len(batch) <= batch_reserve(self._engine.num_slots):
            return False
        victim = max(able, key=lambda one: one.sequence.arrived_at)
        sequence = victim.sequence
        self._scheduler.remove(sequence)
        self._slots.release(sequence.slot, sequence.tokens[: sequence.num_computed], 0, self._clock())
        victim.is_preempted = True
        self._preempted.append(victim)
        log.info("↷ turn set aside turn=%s tokens=%d", victim.job.id, len(sequence.tokens))
        return True

    def _resume(self, running: _Running) -> bool:
        """Seats a turn again that was set aside; what of its state is not to be had any more is computed again."""
        sequence, job = running.sequence, running.job
        placed = self._place(job, sequence.tokens, sequence.tokens, len(job.prompt) + job.max_tokens)
        if placed is None:
            return False
        seat, _ = placed
        sequence.slot, sequence.num_computed = seat.slot, seat.num_reused
        sequence.first_output = len(sequence.tokens) - 1
        self._scheduler.add(sequence)
        running.is_preempted = False
        self._preempted.remove(running)
        return True

    def _keep_prefix(self, seat: Seat, job: Job) -> Seat:
        """What the seat's slot holds, or its source, down to the prefix that is reused."""
        if seat.source is not None:
            done = self._engine.copy(seat.source, seat.slot, seat.num_reused)
            return seat if done else replace(seat, num_reused=0, source=None)
        slot = self._slots[seat.slot]
        if slot.conversation != job.conversation and seat.num_reused < len(slot.tokens):
            self._offload(seat.slot)  # another one's, of which the beginning is of use
        if self._engine.truncate(seat.slot, seat.num_reused):
            return seat
        # What those tokens look back on is gone: all of it is computed again.
        self._engine.truncate(seat.slot, 0)
        return replace(seat, num_reused=0)

    # --- Parking ---

    def _find_offloaded(self, job: Job, tokens: bytes, num_resident: int) -> PrefixMatch | None:
        """A parked state that saves more than the context does, and more than copying it costs."""
        if not self._cache.is_on:
            return None
        found = self._cache.find(tokens, job.client)
        if found is None or found.num_tokens < num_resident + MIN_RESTORED_TOKENS:
            return None
        return found

    def _restore(self, job: Job, tokens: bytes, seat: Seat) -> tuple[Seat, CachedIn] | None:
        """Copies a parked state into the empty slot; None where there is none of use, or no room for it."""
        # Looked for again: what was evicted for the seat may have taken its place, or been parked anew under its name.
        found = self._find_offloaded(job, tokens, 0)
        if found is None:
            return None
        started = self._clock()
        own = found.entry.key == Key(job.client, job.conversation)
        taken = self._cache.take(found.entry.key, keep=not own)
        if taken is None:
            return None
        state, origin = taken
        self._engine.truncate(seat.slot, 0)
        done = self._engine.restore(seat.slot, state) and self._engine.truncate(seat.slot, found.num_tokens)
        if not done:
            self._engine.truncate(seat.slot, 0)
        self._copy_seconds += self._clock() - started
        return (replace(seat, num_reused=found.num_tokens), origin) if done else None

    def _offload(self, index: int) -> None:
        """Copies an idle slot's state out of the context; the slot is as it was."""
        if not self._cache.is_on or (copied := self._copy_out(index)) is None:
            return
        started = self._clock()
        self._cache.offload(*copied)
        self._copy_seconds += self._clock() - started

    def _copy_out(self, index: int) -> Export:
        slot = self._slots[index]
        if slot.is_active or len(slot.tokens) < MIN_OFFLOADED_TOKENS:
            return None
        if not self._engine.is_whole(index, len(slot.tokens)):
            return None
        num_bytes = self._engine.state_bytes(index)
        if num_bytes > self._cache.max_bytes:
            return None
        started = self._clock()
        offloaded = KvEntry(Key(slot.client, slot.conversation), packed(slot.tokens), num_bytes, slot.num_canonical)
        state = self._engine.save(index)
        self._copy_seconds += self._clock() - started
        return offloaded, state

    def _export(self, key: Key, future: Future[Export]) -> None:
        slots = (slot for slot in self._slots.idle() if Key(slot.client, slot.conversation) == key)
        slot = max(slots, key=lambda one: len(one.tokens), default=None)
        future.set_result(self._copy_out(slot.index) if slot is not None else None)

    def offload_all(self) -> None:
        """Parks what is left in the context, the latest used last. Only once the thread has ended."""
        assert not self._thread.is_alive()
        for slot in self._slots.idle():
            self._offload(slot.index)

    def _replay(self, job: Job, detokenizer: Detokenizer) -> FinishReason | None:
        """Brings the detokenizer to where the earlier worker's was; the reason why nothing is left to choose."""
        for token in job.resumed:
            detokenizer.add(self._engine.vocabulary.piece(token))
            if detokenizer.stopped:
                return "stop"
        return "length" if job.resumed and len(job.resumed) >= job.max_tokens else None

    def _run_step(self, step: Step) -> None:
        started = self._clock()
        try:
            rows = self._engine.decode(list(step.spans))
        except KvCacheFull:
            self._make_room(step)
            return
        self._scheduler.computed(step)
        num_tokens = step.num_tokens
        finished: list[tuple[_Running, FinishReason]] = []
        for sequence, span, outputs in zip(step.sequences, step.spans, rows, strict=True):
            running = self._running[sequence.id]
            reason = self._or_rejected(running, partial(self._take_output, running, span, outputs))
            if reason is not None:
                finished.append((running, reason))
        now = self._clock()
        seconds = now - started
        self._scheduler.update(step, seconds, now)
        self._choose_threads(step, seconds, now)
        watts = self._power.watts
        for sequence, span in zip(step.sequences, step.spans, strict=True):
            if seated := self._running.get(sequence.id):
                share = seconds * len(span.tokens) / num_tokens
                if not step.is_decode:
                    seated.prefill_seconds += share
                if watts is not None:
                    seated.joules = (seated.joules or 0.0) + watts * share
        for running, reason in finished:
            self._finish(running, reason)
        for running in list(self._running.values()):
            if running.job.continuations and running.sequence.num_remaining == 0:
                self._next_continuation(running)
        if self._on_step is not None:
            self._on_step(step, seconds)

    def _choose_threads(self, step: Step, seconds: float, now: float) -> None:
        if self._threads is None:
            return
        if step.is_decode:
            num_threads = self._threads.update(len(step.spans), seconds, now)
        elif step.num_tokens >= self._engine.min_prefill_tokens:
            num_threads = self._threads.update(PREFILL, seconds / step.num_tokens, now)
        else:
            return
        if num_threads != self._engine.num_threads:
            self._engine.num_threads = num_threads

    def _take_output(self, running: _Running, span: Span, rows: list[int]) -> FinishReason | None:
        if running.job.continuations:
            self._score(running, span, rows)
            return None
        if span.end < len(running.sequence.tokens):
            return None
        return self._choose(running, rows[-1])

    def _choose(self, running: _Running, row: int) -> FinishReason | None:
        """Samples the next token; the reason to finish, if there is one."""
        sequence, sampling = running.sequence, running.job.sampling
        assert running.sampler is not None
        vocabulary = self._engine.vocabulary
        was_late = running.is_late
        token = running.sampler.poll() if was_late else running.sampler.sample(row, sequence.num_generated)
        running.is_late = token == PENDING
        if running.is_late:
            return None
        if token < 0 or vocabulary.is_end(token):
            self._emit(running, running.detokenizer.finish(), (), ())
            return "stop"
        logprobs: tuple[TokenLogprob, ...] = ()
        if sampling.logprobs is not None:
            late = running.sampler if was_late else None
            logprobs = (self._logprob(late, row, token, sampling.logprobs),)
        sequence.tokens.append(token)
        running.last_token_at = self._clock()
        running.first_token_at = running.first_token_at or running.last_token_at
        text = running.detokenizer.add(vocabulary.piece(token))
        is_last = sequence.num_generated >= running.job.max_tokens
        if is_last and not running.detokenizer.stopped:
            text += running.detokenizer.finish()
        self._emit(running, text, (token,), logprobs)
        if running.detokenizer.stopped:
            return "stop"
        if running.sampler.is_done:
            self._emit(running, running.detokenizer.finish(), (), ())
            return "stop"
        return "length" if is_last else None

    def _take_late(self) -> None:
        """The tokens of those whose grammars were late, where they have come."""
        for running in [one for one in self._running.values() if one.is_late]:
            reason = self._or_rejected(running, partial(self._choose, running, -1))
            if reason is not None:
                self._finish(running, reason)

    def _or_rejected(self, running: _Running, work: Callable[[], FinishReason | None]) -> FinishReason | None:
        """What `work` gives; a turn that cannot go on is rejected, and nothing else ends for it."""
        try:
            return work()
        except TurnRejected as error:
            self._reject(running, error)
        except EngineLost:
            raise
        except Exception as error:
            log.exception("turn failed in the engine turn=%s", running.job.id)
            self._reject(running, TurnRejected("internal_error", type(error).__name__, retryable=True))
        return None

    def _logprob(self, late: TokenSampler | None, row: int, token: int, num_top: int) -> TokenLogprob:
        found = late.logprob(token, num_top) if late is not None else self._engine.logprob(row, token, num_top)
        piece = self._engine.vocabulary.piece
        return TokenLogprob(
            found.token, found.logprob, found.top, piece(token), tuple(piece(top) for top, _ in found.top)
        )

    def _emit(self, running: _Running, text: str, tokens: tuple[int, ...], logprobs: tuple[TokenLogprob, ...]) -> None:
        if text or tokens:
            self._events.append(Generated(running.job.id, text, tokens, logprobs))

    def _score(self, running: _Running, span: Span, rows: list[int]) -> None:
        tokens = running.sequence.tokens
        first = max(span.first_output, span.start)
        for position, row in enumerate(rows, first):
            if position + 1 < len(tokens):
                following = tokens[position + 1]
                running.logprobs.append(self._engine.logprob(row, following, 0).logprob)
                running.is_greedy = running.is_greedy and self._engine.is_likeliest(row, following)

    def _next_continuation(self, running: _Running) -> None:
        """Notes a continuation's score and goes back to where the next one leaves the prompt."""
        sequence, job = running.sequence, running.job
        known, begin = job.continuations[len(running.scores)]
        logprobs, running.logprobs = tuple(running.logprobs), []
        running.scores.append(Score(sum(logprobs), len(logprobs), running.is_greedy, begin, known[begin:], logprobs))
        running.is_greedy = True
        if len(running.scores) == len(job.continuations):
            self._finish(running, "stop")
            return
        known, begin = job.continuations[len(running.scores)]
        keep = min(begin - 1, common_prefix(sequence.tokens, list(known)))
        if self._canonical_chunk:
            keep -= keep % self._canonical_chunk
        if not self._engine.truncate(sequence.slot, keep):
            self._engine.truncate(sequence.slot, 0)
            keep = 0
        sequence.tokens = list(known)
        sequence.num_prompt_tokens = len(known)
        sequence.num_computed = keep
        sequence.first_output = begin - 1
        sequence.num_to_come = job.num_to_score(len(running.scores) + 1)

    def _finish(self, running: _Running, reason: FinishReason) -> None:
        sequence = running.sequence
        if reason == "cancelled":
            self._emit(running, running.detokenizer.finish(), (), ())
        num_prompt = len(running.job.prompt)
        self._events.append(
            Finished(
                job=running.job.id,
                reason=reason,
                num_prompt_tokens=num_prompt,
                num_cached=min(sequence.num_cached, num_prompt),
                num_generated=0 if running.job.continuations else sequence.num_generated,
                prefill_seconds=running.prefill_seconds,
                decode_seconds=running.last_token_at - running.first_token_at,
                tokens=tuple(sequence.tokens),
                scores=tuple(running.scores),
                joules=running.joules,
                cached_in=running.cached_in if sequence.num_cached else None,
            )
        )
        self._release(running)

    def _reject(self, running: _Running, error: TurnRejected) -> None:
        self._events.append(Rejected(running.job.id, error.code, error.detail, error.retryable))
        self._release(running)

    def _release(self, running: _Running) -> None:
        sequence = running.sequence
        del self._running[sequence.id]
        if running.sampler is not None:
            running.sampler.close()
        if running.is_preempted:
            self._preempted.remove(running)
            return
        self._scheduler.remove(sequence)
        num_canonical = 0
        if self._canonical_chunk:
            num_canonical = min(sequence.num_computed, sequence.num_prompt_tokens)
            num_canonical -= num_canonical % self._canonical_chunk
        if running.detokenizer.stopped:
            sequence.num_computed = self._without_stop(running)
        computed = sequence.tokens[: sequence.num_computed]
        self._slots.release(sequence.slot, computed, num_canonical, self._clock())

    def _without_stop(self, running: _Running) -> int:
        """Takes the stop text, which the conversation's next prompt does not have, out of the slot where it can be
        done: how many tokens are computed then. What only grows could not be gone on with behind it."""
        sequence = running.sequence
        answer = sequence.tokens[sequence.num_prompt_tokens :]
        detokenizer, text = Detokenizer(running.job.sampling.stop), ""
        for piece in map(self._engine.vocabulary.piece, answer):
            text += detokenizer.add(piece)
            if detokenizer.stopped:
                break
        shared = common_prefix(as_spoken(self._engine.vocabulary, answer, text), answer)
        num_kept = min(sequence.num_computed, sequence.num_prompt_tokens + shared)
        return num_kept if self._engine.truncate(sequence.slot, num_kept) else sequence.num_computed

    def _make_room(self, step: Step) -> None:
        """llama.cpp found no cells although they were counted: an idle slot goes, or else the youngest sequence."""
        idle = [
            slot
            for slot in map(self._slots.__getitem__, range(self._engine.num_slots))
            if not slot.is_active and slot.tokens
        ]
        if idle:
            victim = min(idle, key=lambda slot: slot.used_at)
            log.warning("cells short, evicted slot=%d tokens=%d", victim.index, len(victim.tokens))
            self._offload(victim.index)
            self._engine.truncate(victim.index, 0)
            self._slots.clear(victim.index)
            return
        youngest = max(step.sequences, key=lambda sequence: sequence.arrived_at)
        error = TurnRejected("overloaded", "the KV cache has no room for this turn just now", retryable=True)
        slot = youngest.slot
        self._reject(self._running[youngest.id], error)
        self._engine.truncate(slot, 0)
        self._slots.clear(slot)

    def _flush(self) -> None:
        self.snapshot = self._snapshot()
        if self._events:
            events, self._events = self._events, []
            self._deliver(events)

    def _snapshot(self) -> LoopSnapshot:
        costs = self._scheduler.costs
        return LoopSnapshot(
            num_active=len(self._running),
            num_waiting=len(self._waiting),
            num_cells_used=self._slots.num_cells_used,
            copy_seconds=self._copy_seconds,
            resident={Key(one.client, one.conversation): len(one.tokens) for one in self._slots.idle()},
            prefill_tokens_per_second=1 / costs.prefill_seconds_per_token,
            decode_tokens_per_second=1 / costs.decode(1),
        )
