"""How many threads llama.cpp computes a step with, one number for decode, another for prompts; and how they wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from broker.settings import load
from workers.engine.calibration import calibrate, measure_prefill_threads
from workers.engine.events import Job
from workers.engine.loop import EngineLoop
from workers.engine.protocol import Span
from workers.engine.scheduler import Scheduler
from workers.engine.slots import Slots
from workers.engine.threads import FixedThreads, StepThreads
from workers.kv.cache import OffloadCache
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel
from workers.machine.thread_count import fixed_threads
from workers.settings import WorkerSettings

BOTH = StepThreads(FixedThreads(1), FixedThreads(2))


class Watched(LlamaEngine):
    """Notes what llama.cpp would compute each step with, were it of one token and were it of several."""

    def __init__(self, model: LlamaModel) -> None:
        super().__init__(model, ContextOptions(num_ctx=512, num_slots=2))
        self.noted: list[tuple[int, int, int]] = []

    def decode(self, spans: list[Span]) -> list[list[int]]:
        alone, several = lib.llama_n_threads(self._context), lib.llama_n_threads_batch(self._context)
        self.noted.append((sum(len(span.tokens) for span in spans), alone, several))
        return super().decode(spans)


def test_streams_that_decode_together_do_not_take_the_threads_of_prompts(tiny: LlamaModel) -> None:
    engine = Watched(tiny)
    scheduler = Scheduler(budget=60.0, max_batch_tokens=512, max_batch_outputs=32)
    loop = EngineLoop(engine, scheduler, Slots(2, 512), OffloadCache(0), threads=BOTH)
    for name, first in (("a", 3), ("b", 4)):  # prompts that begin alike would be computed once
        loop.submit(Job(name, "c", name, list(range(first, first + 40)), 3))
    while loop.has_work:
        assert loop.take_orders()
        loop.run_round()
    engine.close()
    assert engine.noted == [(80, 2, 2), (2, 1, 1), (2, 1, 1)]


def test_what_a_step_costs_is_measured_with_the_threads_of_its_kind(tiny: LlamaModel) -> None:
    engine = Watched(tiny)
    calibrate(engine, threads=BOTH)
    engine.close()
    assert engine.noted == [(64, 2, 2), (1, 1, 1)] * 2


def test_prompts_are_measured_by_whole_chunks_with_each_number(tiny: LlamaModel) -> None:
    engine = Watched(tiny)
    ticks = iter(range(1_000_000))
    seconds = measure_prefill_threads(engine, [2, 1], lambda: 0.1 * next(ticks))
    engine.close()
    assert list(seconds) == [2, 1]
    assert min(seconds.values()) > 0
    assert engine.noted[0][0] == 64
    assert {num for _, num, _ in engine.noted[1:]} == {1, 2}
    assert all(tokens == 64 and alone == several for tokens, alone, several in engine.noted)


@pytest.mark.parametrize("num_tokens", [1, 64])
def test_in_the_deterministic_mode_the_threads_change_nothing(tiny: LlamaModel, num_tokens: int) -> None:
    engine = LlamaEngine(tiny, ContextOptions(num_ctx=512, num_slots=1, flash_attention=False))
    found = []
    for engine.num_threads in (1, 2, 3):
        engine.truncate(0, 0)
        engine.decode([Span(0, 0, tuple(range(3, 67)), 64)])
        ((row,),) = engine.decode([Span(0, 64, tuple(range(3, 3 + num_tokens)), 64 + num_tokens - 1)])
        found.append(engine.logits(row).copy())
    engine.close()
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (None, None)),
        ({"threads": 2}, (2, 2)),
        ({"threads": 1, "threads_batch": 2}, (1, 2)),
        ({"threads_batch": 2}, (None, 2)),
        ({"deterministic": True, "threads": 1, "threads_batch": 2}, (1, 2)),
    ],
)
def test_one_number_that_is_asked_for_is_that_of_both(
    settings: dict[str, object], expected: tuple[int | None, int | None]
) -> None:
    assert fixed_threads(load(WorkerSettings, flags=settings, environment={})) == expected


# --- Between two steps ---

SECONDS = 20.0


def tasks() -> set[str]:
    return {path.name for path in Path("/proc/self/task").iterdir()}


def stat(task: str) -> tuple[str, int]:
    """A thread's state, and the ticks of the clock that it has computed."""
    columns = Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()
    return columns[0], int(columns[11]) + int(columns[12])


def until(is_so: Callable[[], bool]) -> bool:
    """Whether it becomes so, before somebody gives up."""
    end = time.monotonic() + SECONDS
    while not (found := is_so()) and time.monotonic() < end:
        time.sleep(0.001)
    return found


def step(engine: LlamaEngine) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    engine.truncate(0, 0)
    ((row,),) = engine.decode([Span(0, 0, tuple(range(3, 35)), 31)])
    return engine.logits(row).copy()


def test_steps_are_the_same_however_their_threads_wait(tiny: LlamaModel) -> None:
    engine = LlamaEngine(tiny, ContextOptions(num_ctx=512, num_slots=1, num_threads=2, flash_attention=False))
    assert engine.poll is None
    plain = step(engine)
    for engine.num_threads in (2, 3, 1, 2):
        for engine.poll in (0, None, 50, 100, 0):
            assert np.array_equal(step(engine), plain), (engine.num_threads, engine.poll)
    engine.close()


def test_threads_of_a_pool_stay_from_step_to_step_and_end_with_the_context(tiny: LlamaModel) -> None:
    before = tasks()
    engine = LlamaEngine(tiny, ContextOptions(num_ctx=512, num_slots=1, num_threads=3))
    step(engine)
    assert tasks() == before, "made for the step, and ended with it"
    engine.poll = 0
    step(engine)
    kept = tasks() - before
    assert len(kept) == 2, "the third is the one that asks for the step"
    step(engine)
    assert tasks() - before == kept
    engine.num_threads = 2
    step(engine)
    assert len(tasks() - before - kept) == 1
    engine.num_threads = 3
    step(engine)
    assert len(tasks() - before) == 3
    engine.close()
    assert tasks() == before


def test_threads_that_poll_compute_between_steps_and_others_sleep(tiny: LlamaModel) -> None:
    before = tasks()
    engine = LlamaEngine(tiny, ContextOptions(num_ctx=512, num_slots=1, num_threads=2))
    engine.poll = 0
    step(engine)
    (sleeper,) = tasks() - before
    assert until(lambda: stat(sleeper)[0] == "S")
    engine.poll = 100
    step(engine)
    (spinner,) = tasks() - before - {sleeper}
    begun = stat(spinner)[1]
    assert until(lambda: stat(spinner)[1] > begun + 1), "it looks for work"
    assert until(lambda: stat(spinner)[0] == "S"), "and not for ever"
    engine.num_threads = 1
    step(engine)
    engine.close()
    assert tasks() == before
