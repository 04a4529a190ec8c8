"""What others want of the engine loop: put in by any thread, taken out by the loop's, between two steps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from workers.engine.events import Job
from workers.engine.offloading import Export
from workers.kv.index import Key


@dataclass(frozen=True)
class Orders:
    """All that came since the last time, each kind in the order of its coming."""

    jobs: list[tuple[Job, float]]
    """And when each was submitted, by the loop's clock."""
    renames: list[tuple[Key, str, list[int]]]
    cancelled: set[str]
    is_over: bool
    """It is time to stop."""


class Inbox:
    """Thread-safe. Bounded by the turns that a worker has in hand."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._jobs: list[tuple[Job, float]] = []
        self._renames: list[tuple[Key, str, list[int]]] = []
        self._cancelled: set[str] = set()
        self._exports: deque[tuple[Key, Future[Export]]] = deque()
        self._is_over = False
        self._busy_since: float | None = None

    # --- From any thread ---

    def submit(self, job: Job) -> None:
        """A job to be computed."""
        with self._changed:
            self._jobs.append((job, self._clock()))
            self._changed.notify()

    def cancel(self, job_id: str) -> None:
        """A job that nobody wants any more, wherever it is; unknown ones are passed over."""
        with self._changed:
            self._cancelled.add(job_id)
            self._changed.notify()

    def rename(self, key: Key, name: str, tokens: list[int]) -> None:
        """A conversation that is another one's from now on."""
        with self._changed:
            self._renames.append((key, name, tokens))
            self._changed.notify()

    def export(self, key: Key) -> Future[Export]:
        """A conversation whose state somebody wants a copy of; None at once where the loop is over."""
        future: Future[Export] = Future()
        with self._changed:
            if self._is_over:
                future.set_result(None)
            else:
                self._exports.append((key, future))
                self._changed.notify()
        return future

    def stop(self) -> None:
        """The loop is to end after the step that runs."""
        with self._changed:
            self._is_over = True
            self._changed.notify()

    @property
    def busy_seconds(self) -> float:
        """Since the loop was here last; 0 while it waits here."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    # --- From the loop's ---

    @property
    def is_empty(self) -> bool:
        """Whether nobody wants anything."""
        return not (self._jobs or self._cancelled or self._renames or self._exports or self._is_over)

    def take(self, *, has_work: bool) -> Orders | None:
        """What came; None where nothing did. A loop without work waits for something. The exports stay, for
        `next_export`."""
        self._busy_since = None
        orders = None
        if not has_work or not self.is_empty:
            with self._changed:
                while self.is_empty:
                    self._changed.wait()
                orders = Orders(self._jobs, self._renames, self._cancelled, self._is_over)
                self._jobs, self._renames, self._cancelled = [], [], set()
        self._busy_since = self._clock()
        return orders

    def next_export(self) -> tuple[Key, Future[Export]] | None:
        """The oldest that is still waited for, and who waits: its future cannot be cancelled any more."""
        while self._exports:
            key, future = self._exports.popleft()
            if future.set_running_or_notify_cancel():
                return key, future
        return None

    def close(self) -> None:
        """Answers what can be answered no more: the loop is over."""
        with self._changed:
            self._is_over = True
            while (wanted := self.next_export()) is not None:
                wanted[1].set_result(None)
