"""The two threads that compute steps of texts: whose turn is whose, with which priority, and what an end leaves."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.embedding_fakes import FakeEmbedder
from workers.embedding.loop import LOWEST, EmbeddingLoop
from workers.embedding.packing import EmbedJob
from workers.embedding.protocol import Tokens
from workers.engine.protocol import EngineError

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
def running(embedder: FakeEmbedder, lost: list[str] | None = None) -> Iterator[EmbeddingLoop]:
    loop = EmbeddingLoop(embedder)
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
