"""The two threads that compute steps of texts: whose turn is whose, with which priority, and what an end leaves."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.embedding_fakes import FakeEmbedder
from workers.embedding.loop import LOWEST, NUM_CONTENDED, EmbeddingLoop
from workers.embedding.packing import EmbedJob
from workers.embedding.protocol import Tokens
from workers.engine.protocol import EngineError
from workers.machine.contention import CpuTime

SECONDS = 20


class Watched(FakeEmbedder):
    """Notes with which priority, and how many at once, steps are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.priorities: list[int] = []
        self.num_at_once = self.most_at_once = 0

    def embed(self, batch: Sequence[Tokens], num_threads: int) -> list[bytes]:
        self.num_at_once += 1
        self.most_at_once = max(self.most_at_once, self.num_at_once)
        self.priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        try:
            return super().embed(batch, num_threads)
        finally:
            self.num_at_once -= 1


@contextmanager
def running(
    embedder: FakeEmbedder,
    lost: list[str] | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    cpu_time: Callable[[], CpuTime] = lambda: CpuTime(0, 0),
) -> Iterator[EmbeddingLoop]:
    loop = EmbeddingLoop(embedder, clock=clock, cpu_time=cpu_time)
    loop.start((lost if lost is not None else []).append)
    try:
        yield loop
    finally:
        embedder.gate.set()
        loop.stop()


def job(name: str, num_texts: int = 1, *, is_batch: bool = False) -> EmbedJob:
    return EmbedJob(name, ((1, 2),) * num_texts, is_batch)


def test_what_nobody_waits_for_is_computed_by_a_thread_of_the_lowest_priority_and_never_beside_a_step() -> None:
    usual = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    embedder = Watched()
    with running(embedder) as loop:
        assert loop.submit(job("query")).result(SECONDS).is_done
        assert embedder.priorities == [usual]
        assert loop.submit(job("list", is_batch=True)).result(SECONDS).is_done
        assert embedder.priorities == [usual, LOWEST]
        futures = [loop.submit(job(f"{at}", 20, is_batch=at % 2 == 0)) for at in range(20)]
        assert all(future.result(SECONDS).is_done for future in futures)
    assert embedder.most_at_once == 1


class Contended:
    """An account of a thread for which each step ran so long, and waited three times that."""

    def __init__(self, ran: float) -> None:
        self._ran, self._num_asked = ran, 0

    def __call__(self) -> CpuTime:
        self._num_asked += 1
        return CpuTime(self._num_asked * self._ran, 3 * self._num_asked * self._ran)


def test_what_nobody_waits_for_rests_after_steps_that_waited_for_their_core_and_who_waits_does_not() -> None:
    embedder = FakeEmbedder()
    hours = 3600.0  # it rests until the loop ends
    with running(embedder, cpu_time=Contended(ran=hours)) as loop:
        steps = [loop.submit(job(f"{at}", embedder.max_batch_texts, is_batch=True)) for at in range(NUM_CONTENDED)]
        last = loop.submit(job("last", is_batch=True))
        assert all(one.result(SECONDS).is_done for one in steps)
        assert all(loop.submit(job(f"query {at}")).result(SECONDS).is_done for at in range(3))
        assert not last.done()
    assert isinstance(last.exception(SECONDS), EngineError)


def test_a_rest_is_as_long_as_leaves_a_tenth_of_the_cores_and_ends() -> None:
    embedder = FakeEmbedder()
    num_steps = NUM_CONTENDED + 2
    with running(embedder, cpu_time=Contended(ran=0.001)) as loop:
        jobs = [loop.submit(job(f"{at}", embedder.max_batch_texts, is_batch=True)) for at in range(num_steps)]
        began_at = time.monotonic()
        assert all(one.result(SECONDS).is_done for one in jobs)
        assert time.monotonic() - began_at >= (num_steps - NUM_CONTENDED) * 0.009


def test_one_step_that_waited_for_its_core_among_others_is_no_reason_to_rest() -> None:
    embedder, hour = FakeEmbedder(), 3600.0
    ran = itertools.count(hour, hour)
    waited = itertools.accumulate(itertools.cycle([0.0, 0.0, 0.0, hour]))  # before and after two steps
    with running(embedder, cpu_time=lambda: CpuTime(next(ran), next(waited))) as loop:
        jobs = [loop.submit(job(f"{at}", embedder.max_batch_texts, is_batch=True)) for at in range(6)]
        assert all(one.result(SECONDS).is_done for one in jobs)


def test_a_step_that_nobody_waits_for_is_as_short_as_the_last_ones_speed_says() -> None:
    embedder, seconds = FakeEmbedder(), itertools.count()
    most = embedder.max_batch_texts
    with running(embedder, clock=lambda: float(next(seconds))) as loop:  # each step takes a second
        for name, is_batch in (("list", True), ("next list", True), ("query", False)):
            assert loop.submit(job(name, most, is_batch=is_batch)).result(SECONDS).is_done
    # 16 tokens a second leave 4 for a quarter of one, which are two texts; then there is one a step.
    assert list(map(len, embedder.steps)) == [most, 2, *[1] * (most - 2), most]


def test_a_cancelled_job_ends_without_vectors_and_the_others_go_on() -> None:
    embedder = FakeEmbedder()
    embedder.gate.clear()
    with running(embedder) as loop:
        first, second, third = (loop.submit(job(name, 8)) for name in "abc")
        assert embedder.begun.wait(SECONDS)
        loop.cancel("a")
        loop.cancel("b")
        loop.cancel("nobody")
        assert not first.result(SECONDS).is_done
        assert not second.result(SECONDS).vectors
        embedder.gate.set()
        assert third.result(SECONDS).is_done
    assert sum(map(len, embedder.steps)) == 16, "the one that ran, and the one that was left"


def test_a_lost_engine_is_told_before_its_jobs_hear_of_it_and_takes_no_more() -> None:
    embedder = FakeEmbedder()
    embedder.gate.clear()
    embedder.is_broken = True
    told: list[str] = []
    with running(embedder, told) as loop:
        future = loop.submit(job("a"))
        heard: list[int] = []
        future.add_done_callback(lambda _: heard.append(len(told)))
        embedder.gate.set()
        assert isinstance(future.exception(SECONDS), EngineError)
        assert heard == [1]
        with pytest.raises(EngineError):
            loop.submit(job("b")).result(SECONDS)
    assert loop.has_ended


def test_what_is_there_and_how_long_a_step_takes_can_be_seen() -> None:
    embedder = FakeEmbedder()
    embedder.gate.clear()
    with running(embedder) as loop:
        assert loop.stuck_seconds == 0
        running_job = loop.submit(job("a", 8))
        assert embedder.begun.wait(SECONDS)
        loop.submit(job("b", 8))
        state = loop.snapshot
        assert (state.num_active, state.num_waiting) == (1, 1)
        assert loop.stuck_seconds > 0
        embedder.gate.set()
        running_job.result(SECONDS)
    assert not loop.snapshot.num_active
