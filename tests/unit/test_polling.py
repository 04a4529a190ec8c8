"""How llama.cpp's threads wait between steps: what is measured of it, and what is chosen."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from broker.errors import SettingsError
from tests.fakes import FakeEngine
from workers.engine.polling import LEVELS, PollCost, measure_polling, quietest
from workers.engine.protocol import Span
from workers.engine.threads import FixedThreads, StepThreads, Threads
from workers.machine.thread_count import choose_polling, kept_file, machine_key
from workers.settings import WorkerSettings

SECONDS: dict[int | None, float] = {None: 0.050, 0: 0.049, 50: 0.040, 100: 0.2}
THREADS = StepThreads(Threads(4, first=2), Threads(4))


class Waiting(FakeEngine):
    """Its steps take as long as its threads' waiting says, by its own clock."""

    def __init__(self) -> None:
        super().__init__(counted_token_seconds=0.0)
        self.noted: list[tuple[int | None, int]] = []

    def decode(self, spans: list[Span]) -> list[list[int]]:
        self.noted.append((self.poll, self.num_threads))
        self._counted += SECONDS[self.poll]
        return super().decode(spans)


def costs(**measured: tuple[float, float]) -> dict[str, PollCost]:
    return {name.removeprefix("at_"): PollCost(*each) for name, each in measured.items()}


def test_the_quietest_of_the_good_levels_is_taken_and_pythons_work_counts() -> None:
    assert quietest(costs(none=(0.050, 0.001), at_0=(0.050, 0.001), at_50=(0.049, 0.001))) is None
    assert quietest(costs(none=(0.050, 0.001), at_0=(0.046, 0.001), at_50=(0.045, 0.001))) == 0
    assert quietest(costs(none=(0.050, 0.001), at_0=(0.050, 0.001), at_50=(0.045, 0.001))) == 50
    assert quietest(costs(none=(0.050, 0.001), at_0=(0.050, 0.001), at_50=(0.045, 0.009))) is None
    later = costs(deep=(0.001, 0.001), none=(0.050, 0.001), at_0=(0.030, 0.001))
    assert quietest(later) == 0, "a level of a later release is none of ours"
    assert quietest(costs(deep=(0.001, 0.001))) is None


def test_each_level_is_measured_and_the_engine_waits_as_before_afterwards() -> None:
    engine = Waiting()
    found = measure_polling(engine, (None, 0, 50, 100), engine.clock)
    assert {name: cost.decode_seconds for name, cost in found.items()} == {
        "none": pytest.approx(0.050),
        "0": pytest.approx(0.049),
        "50": pytest.approx(0.040),
        "100": pytest.approx(0.2),
    }
    assert all(cost.python_seconds >= 0 for cost in found.values())
    assert engine.poll is None
    assert engine.cells[0] == []


def test_pythons_work_is_told_in_time_that_passed() -> None:
    (cost,) = measure_polling(FakeEngine(step_seconds=0.005), (None,)).values()
    assert cost.decode_seconds >= 0.005
    assert cost.python_seconds > 0


@pytest.mark.parametrize(
    ("settings", "threads", "expected"),
    [
        (WorkerSettings(poll=0), THREADS, 0),
        (WorkerSettings(poll=100, threads=1), THREADS, 100),
        (WorkerSettings(poll=7, deterministic=True), THREADS, 7),
        (WorkerSettings(threads=1), THREADS, None),
        (WorkerSettings(deterministic=True), THREADS, None),
        (WorkerSettings(), StepThreads(FixedThreads(1), Threads(4)), None),
    ],
)
def test_what_is_asked_for_is_taken_and_without_measured_threads_nothing_is_measured(
    settings: WorkerSettings, threads: StepThreads, expected: int | None
) -> None:
    engine = Waiting()
    engine.poll = 3
    choose_polling(engine, settings, "f", threads, has_openmp=False)
    assert (engine.poll, engine.noted) == (expected, [])


def test_what_was_measured_at_an_earlier_start_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings, engine = WorkerSettings(data_dir=str(tmp_path)), Waiting()
    kept = costs(none=(0.050, 0.001), at_0=(0.049, 0.001), at_50=(0.040, 0.002))
    key = f"{machine_key(settings, 'f')} poll 2"
    kept_file(settings).write_bytes(msgspec.json.encode({key: kept}))
    with caplog.at_level(logging.INFO):
        choose_polling(engine, settings, "f", THREADS, has_openmp=False)
    assert (engine.poll, engine.noted) == (50, [])
    told = "none:50.0+1.00ms 0:49.0+1.00ms 50:40.0+2.00ms (measured at an earlier start)"
    assert f"poll=50 a decode step + Python's work behind it {told}" in caplog.text


def test_what_is_measured_now_is_kept_where_nobody_else_had_the_cores(tmp_path: Path) -> None:
    settings, engine = WorkerSettings(data_dir=str(tmp_path)), Waiting()
    choose_polling(engine, settings, "f", THREADS, has_openmp=False)
    assert {poll for poll, _ in engine.noted} == set(LEVELS)
    assert {num_threads for _, num_threads in engine.noted} == {2}, "the threads of a decode step"
    is_kept = kept_file(settings).exists()
    assert is_kept or engine.poll is None, "beside a neighbour nothing changes"


def test_with_openmp_a_level_is_refused_and_otherwise_nothing_touched() -> None:
    engine = Waiting()
    with pytest.raises(SettingsError, match=r"--poll: this llama\.cpp was built with OpenMP.*GGML_OPENMP=OFF"):
        choose_polling(engine, WorkerSettings(poll=0), "f", THREADS, has_openmp=True)
    choose_polling(engine, WorkerSettings(), "f", THREADS, has_openmp=True)
    assert (engine.poll, engine.noted) == (None, [])


@pytest.mark.parametrize("poll", [-1, 101])
def test_a_level_that_there_is_not_is_refused(poll: int) -> None:
    with pytest.raises(SettingsError, match="--poll: must be from 0 to 100"):
        WorkerSettings(poll=poll).check()
