"""How many threads llama.cpp computes a step with: one number for decode, another for prompts."""

from __future__ import annotations

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
    for name in ("a", "b"):
        loop.submit(Job(name, "c", name, list(range(3, 43)), 3))
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
