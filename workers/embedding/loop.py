"""The threads that compute steps of texts: one for those that somebody waits for, one that yields to everybody else.

A step takes all cores for a while, and what else computes on them, a chat's answer, would wait as long as its threads
wait for each other. So what nobody waits for is computed by threads of the lowest priority: the kernel gives them what
others of their group leave. Against other groups (another session's, service's or container's) no priority helps: there
steps are short, and after one that had to wait for a core the thread rests, so that it takes a small share as long as
others compute. Raising a thread's priority again takes a right that a worker has not, hence two threads, of which one
at a time computes; llama.cpp's own are made for each step, with the priority of who makes them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from workers.embedding.packing import EmbedJob, Packing, Step
from workers.embedding.protocol import Embedder
from workers.engine.events import LoopSnapshot
from workers.engine.protocol import EngineError
from workers.engine.threads import PREFILL, FixedThreads, Threads
from workers.machine.contention import CpuTime, cpu_time

LOWEST = 19
"""A share of 15 in 1,039 beside a thread of the usual priority, where both want a core (sched(7))."""

STEP_SECONDS = 0.25
"""Of a step that nobody waits for, at most, by the last one's speed: so long do others that begin to compute meanwhile
have it beside them. A text of more tokens than that has a step of its own."""

CONTENDED = 0.25
"""Of the time that a step wanted a core, what it waited for one where others compute beside it: half of it, where they
have as many threads as cores. What a worker's own messages take of its cores is below a tenth."""

NUM_CONTENDED = 2
"""Steps in a row: one now and then waits for a message, a log, a neighbour's moment."""

SHARE = 0.1
"""Of the cores, that such steps take beside others."""

MIN_TOLD_TOKENS = 64
"""Of a step that says something of its threads: fewer cost nearly as much."""

log = logging.getLogger(__name__)


class EmbeddingLoop:
    """Owns the embedder from `start` to `stop`."""

    def __init__(
        self,
        embedder: Embedder,
        threads: Callable[[], Threads | FixedThreads] = lambda: FixedThreads(1),
        on_step: Callable[[Step, float], None] = lambda step, seconds: None,
        clock: Callable[[], float] = time.perf_counter,
        cpu_time: Callable[[], CpuTime] = cpu_time,
    ) -> None:
        """`threads` makes what says how many of llama.cpp's own a step takes, for each of the two; `on_step` is told
        of each step and its seconds, in its thread; `cpu_time` is the calling thread's."""
        self.embedder = embedder
        """What computes: its sizes and `tokens_of` are for everybody."""
        self._packing = Packing(embedder.max_batch_tokens, embedder.max_batch_texts)
        self._num_threads = {is_batch: threads() for is_batch in (False, True)}
        self._on_step = on_step
        self._clock = clock
        self._cpu_time = cpu_time
        self._changed = threading.Condition()
        self._running: dict[str, tuple[EmbedJob, Future[EmbedJob]]] = {}
        self._is_stopping = False
        self._began_at: float | None = None
        """Of the step that runs."""
        self._tokens_per_second: float | None = None
        self._num_contended = 0
        """Of the last steps that nobody waited for, those in a row that waited for a core."""
        self._lost: Callable[[str], None] = lambda reason: None
        self._threads = [
            threading.Thread(target=self._run, args=(is_batch,), name=name, daemon=True)
            for is_batch, name in ((False, "embedding"), (True, "embedding-low"))
        ]

    # --- Called from anywhere ---

    def start(self, lost: Callable[[str], None]) -> None:
        """Starts the threads; `lost` is called in one of them with the reason for which the engine is gone."""
        self._lost = lost
        for thread in self._threads:
            thread.start()

    def submit(self, job: EmbedJob) -> Future[EmbedJob]:
        """Comes to the job with all its vectors, or without them where it was cancelled. Raises EngineError where the
        engine is gone by then."""
        future: Future[EmbedJob] = Future()
        future.set_running_or_notify_cancel()  # whoever waits no more says so by `cancel`
        with self._changed:
            if self._is_stopping:
                future.set_exception(EngineError("the engine has ended"))
                return future
            self._running[job.id] = job, future
            self._packing.add(job)
            self._changed.notify_all()
        return future

    def cancel(self, job_id: str) -> None:
        """Ends a job at once: what of it waits is not computed. One that it does not know is no error."""
        with self._changed:
            if (found := self._running.pop(job_id, None)) is not None:
                job, future = found
                self._packing.drop(job)
                future.set_result(job)

    @property
    def snapshot(self) -> LoopSnapshot:
        """How it is just now."""
        with self._changed:
            waiting = sum(job.num_begun == 0 for job in self._packing)
            return LoopSnapshot(
                num_active=len(self._running) - waiting,
                num_waiting=waiting,
                prefill_tokens_per_second=self._tokens_per_second,
            )

    @property
    def num_threads(self) -> int:
        """That a step takes which nobody waits for."""
        return self._num_threads[True].current

    @property
    def stuck_seconds(self) -> float:
        """How long the step that runs just now has taken; 0 while there is none."""
        began_at = self._began_at
        return 0.0 if began_at is None else self._clock() - began_at

    @property
    def has_ended(self) -> bool:
        """Whether the threads were started and one is no more."""
        return any(one.ident is not None and not one.is_alive() for one in self._threads)

    def stop(self) -> None:
        """Ends the threads after the step that runs; what waits is dropped."""
        self._end("the engine has ended")
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    # --- The threads ---

    def _run(self, is_batch: bool) -> None:
        if is_batch:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        try:
            while (step := self._next(is_batch)) is not None:
                self._rest(self._compute(step))
        except Exception as error:
            log.exception("! the engine is lost")
            self._lost(str(error) or type(error).__name__)  # before the turns hear of it: no more are taken
            self._end(f"{type(error).__name__}: {error}")

    def _next(self, is_batch: bool) -> Step | None:
        """Waits for a step of its kind, and until nobody else computes; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or self._may_begin(is_batch))
            if self._is_stopping:
                return None
            self._began_at = self._clock()
            rate = self._tokens_per_second
            room = max(1, int(STEP_SECONDS * rate)) if is_batch and rate is not None else None
            return self._packing.step(is_batch=is_batch, max_tokens=room)

    def _may_begin(self, is_batch: bool) -> bool:
        if self._began_at is not None or not self._packing.has(is_batch=is_batch):
            return False
        return not (is_batch and self._packing.has(is_batch=False))

    def _compute(self, step: Step) -> float:
        """How long the thread rests then."""
        threads, began_at, before = self._num_threads[step.is_batch], self._clock(), self._cpu_time()
        vectors = self.embedder.embed(step.texts, threads.next)
        seconds, took = self._clock() - began_at, self._cpu_time() - before
        is_contended = step.is_batch and took.waited_share > CONTENDED
        if step.num_tokens >= MIN_TOLD_TOKENS and not is_contended:
            threads.update(PREFILL, seconds / step.num_tokens, began_at + seconds)
        step.came_to(vectors, seconds)
        self._on_step(step, seconds)
        with self._changed:
            self._began_at = None
            self._tokens_per_second = step.num_tokens / max(seconds, 1e-9)
            for job, _ in step.parts:
                if job.is_done and (found := self._running.pop(job.id, None)) is not None:
                    found[1].set_result(job)
            self._changed.notify_all()
        if step.is_batch:
            self._num_contended = self._num_contended + 1 if is_contended else 0
        return took.ran * (1 / SHARE - 1) if is_contended and self._num_contended >= NUM_CONTENDED else 0.0

    def _rest(self, seconds: float) -> None:
        if seconds > 0:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopping, seconds)

    def _end(self, reason: str) -> None:
        with self._changed:
            self._is_stopping, self._began_at = True, None
            running, self._running = self._running, {}
            self._changed.notify_all()
        for _, future in running.values():
            future.set_exception(EngineError(reason))
