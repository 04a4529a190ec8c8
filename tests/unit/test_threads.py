from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.protocol import Span
from workers.engine.scheduler import Step
from workers.engine.threads import PREFILL, FixedThreads, StepThreads, Threads, best, candidates


class Board:
    """Cores and busy neighbours on them: threads that share a core with one make all others wait."""

    def __init__(self, num_cores: int, noise: float = 0.0) -> None:
        self.num_cores = num_cores
        self.num_neighbours = 0
        self.is_throttled = False
        self.noise = noise
        self.now = 0.0
        self.threads = Threads(num_cores)
        self.num_threads = num_cores
        self._rng = random.Random(0)

    def seconds(self, num_threads: int, kind: int) -> float:
        alone = (0.08 + 0.01 * kind) / num_threads
        if self.is_throttled:
            return 0.2 / num_threads
        crowded = num_threads + self.num_neighbours > self.num_cores
        return alone * (5.0 if crowded else 1.0)

    def run(self, seconds: float, kind: int = 1) -> float:
        """Steps a second."""
        began, num_steps = self.now, 0
        while self.now - began < seconds:
            cost = self.seconds(self.num_threads, kind) * self._rng.uniform(1, 1 + self.noise)
            self.now += cost
            num_steps += 1
            self.num_threads = self.threads.update(kind, cost, self.now)
        return num_steps / (self.now - began)


def test_the_fewest_threads_that_are_as_good_as_the_best_are_taken() -> None:
    assert candidates(1) == [1]
    assert candidates(2) == [1, 2]
    assert candidates(4) == [2, 3, 4]
    assert best({1: 0.08, 2: 0.04}) == 2
    assert best({2: 0.055, 3: 0.0505, 4: 0.05}) == 3  # a board whose memory is the bound


@pytest.mark.parametrize("kind", [PREFILL, 1, 8])
@pytest.mark.parametrize("num_cores", [2, 4])
def test_a_neighbour_costs_its_share_and_no_more_once_it_is_noticed(num_cores: int, kind: int) -> None:
    board = Board(num_cores)
    alone = board.run(2, kind)
    board.num_neighbours = 1
    board.run(2, kind)
    beside = board.run(60, kind)
    assert beside >= 0.9 * alone * (num_cores - 1) / num_cores
    board.num_neighbours = 0
    board.run(20, kind)
    assert board.run(60, kind) >= 0.98 * alone


def test_what_was_measured_beside_a_neighbour_does_not_stay() -> None:
    board = Board(2)
    board.threads = Threads(2, first=1)
    board.num_threads = 1
    board.run(20)
    assert board.threads.current == 2


def test_two_neighbours_on_four_cores_leave_two_threads() -> None:
    board = Board(4)
    board.run(2)
    board.num_neighbours = 2
    board.run(10)
    assert board.threads.current == 2


def test_a_board_that_slows_down_for_another_reason_keeps_its_threads() -> None:
    board = Board(4)
    alone = board.run(2)
    board.is_throttled = True
    throttled = board.run(60)
    assert board.threads.current == 4
    assert throttled >= 0.98 * 4 / 0.2
    assert throttled < alone


@given(noise=st.floats(0.0, 0.25), kind=st.integers(0, 16))
def test_noise_costs_little(noise: float, kind: int) -> None:
    board = Board(2, noise)
    alone = 1 / (board.seconds(2, kind) * (1 + noise / 2))
    assert board.run(60, kind) >= 0.96 * alone


def test_batches_that_change_with_every_step_are_no_reason_to_change_anything() -> None:
    board = Board(4)
    rng = random.Random(1)
    for _ in range(400):
        board.run(0.01, rng.randrange(9))
    assert board.threads.current == 4


def step_of(num_streams: int, num_tokens: int) -> Step:
    spans = tuple(Span(slot, 0, (1,), 0) for slot in range(num_streams))
    return Step((), (*spans, Span(9, 0, (1,) * num_tokens, 0)) if num_tokens else spans, num_streams)


def test_each_kind_of_step_has_its_own_number_and_learns_from_its_own() -> None:
    threads = StepThreads(Threads(2), Threads(4), min_prefill_tokens=16)
    prefill, decode = step_of(0, 64), step_of(3, 0)
    assert (threads.of(decode), threads.of(prefill)) == (2, 4)
    now = 0.0
    for seconds in (0.64, 0.64, 3.2, 3.2):  # a neighbour comes while prompts are computed
        threads.after(prefill, seconds, now)
        now += seconds
    assert (threads.of(decode), threads.of(prefill)) == (2, 3)
    threads.after(step_of(0, 15), 9.0, now)  # the rest of a prompt says nothing: the trial goes on
    assert threads.of(prefill) == 3
    threads.after(prefill, 0.8, now)
    assert threads.prefill.current == 3
    for seconds in (0.05, 0.05, 0.5, 0.5):
        threads.after(decode, seconds, now)
        now += seconds
    assert (threads.of(decode), threads.of(prefill)) == (1, 3)


def test_threads_that_were_asked_for_stay_whatever_steps_take() -> None:
    threads = StepThreads(FixedThreads(2), FixedThreads(4), min_prefill_tokens=16)
    for step in (step_of(64, 0), step_of(0, 64), step_of(2, 64)):
        for seconds in (0.1, 0.1, 1.0, 1.0, 9.0, 9.0):
            threads.after(step, seconds, seconds)
    assert (threads.of(step_of(1, 0)), threads.of(step_of(0, 64))) == (2, 4)


def test_streams_beside_a_prompt_are_computed_with_its_threads_and_a_neighbour_is_noticed_there_too() -> None:
    threads = StepThreads(FixedThreads(1), Threads(4), min_prefill_tokens=16)
    assert threads.of(step_of(7, 32)) == 4
    # As costs.py has them measured: 7 streams and 16, 32, 256 tokens of a prompt, and a prompt alone.
    for num_streams, num_tokens, seconds in ((7, 16, 0.177), (7, 32, 0.246), (0, 64, 0.316), (7, 256, 1.292)) * 3:
        threads.after(step_of(num_streams, num_tokens), seconds, 0.0)
        assert threads.of(step_of(7, 32)) == 4, "unlike steps, and nothing is wrong"
    for _ in range(2):
        threads.after(step_of(7, 32), 5 * 0.246, 0.0)
    assert threads.of(step_of(7, 32)) == 3
    assert threads.of(step_of(7, 0)) == 1
