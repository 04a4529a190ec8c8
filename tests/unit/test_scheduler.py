from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.costs import CostModel
from workers.engine.row_costs import RowCosts
from workers.engine.scheduler import AGEING, MIN_PREFILL_TOKENS, ROWS, Scheduler, Step
from workers.engine.sequence import Sequence

GAP_BUDGETS = 2.0
"""Between two tokens of a stream, as it is promised."""


class Simulation:
    """Runs a scheduler against given costs; time passes as they say."""

    def __init__(self, prefill: float, decode: float, budget: float = 0.25, num_outputs: int = 32) -> None:
        self.prefill, self.decode = prefill, decode
        costs = CostModel(prefill + decode / 64, RowCosts({1: decode}), prefill)
        self.scheduler = Scheduler(budget=budget, max_batch_tokens=512, max_batch_outputs=num_outputs, costs=costs)
        self.now = 0.0
        self.steps: list[tuple[Step, float, float]] = []
        self.token_times: dict[str, list[float]] = {}

    def add(self, name: str, num_prompt: int, max_tokens: int) -> Sequence:
        slot = len(self.token_times)
        sequence = Sequence(name, list(range(num_prompt)), num_prompt, max_tokens, self.now, slot=slot)
        self.scheduler.add(sequence)
        self.token_times[name] = []
        return sequence

    def step(self) -> bool:
        bound = self.scheduler.step_bound()
        step = self.scheduler.schedule(self.now)
        if not step:
            return False
        seconds = self.decode * (0.9 + 0.1 * max(1, step.num_decoding)) + self.prefill * step.num_prefill_tokens
        self.now += seconds
        ended = []
        for sequence, span in zip(step.sequences, step.spans, strict=True):
            assert span.start == sequence.num_computed
            assert list(span.tokens) == sequence.tokens[span.start : span.end]
            if span.end == len(sequence.tokens):
                sequence.tokens.append(7)
                self.token_times[sequence.id].append(self.now)
                if sequence.num_generated == sequence.max_tokens:
                    ended.append(sequence)
        self.scheduler.update(step)
        self.scheduler.observe(step, seconds)
        for sequence in ended:
            self.scheduler.remove(sequence)
        self.steps.append((step, seconds, bound))
        return True


jobs = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 12)), min_size=1, max_size=8)
rates = st.tuples(st.floats(0.0005, 0.05), st.floats(0.002, 0.9))


@settings(deadline=None)
@given(jobs, rates)
def test_every_sequence_ends(work: list[tuple[int, int]], rate: tuple[float, float]) -> None:
    simulation = Simulation(*rate)
    for index, (num_prompt, max_tokens) in enumerate(work):
        simulation.add(str(index), num_prompt, max_tokens)
    for _ in range(100_000):
        if not simulation.step():
            break
    assert len(simulation.scheduler) == 0
    assert [len(times) for times in simulation.token_times.values()] == [max_tokens for _, max_tokens in work]


@settings(deadline=None)
@given(jobs, rates)
def test_no_step_is_over_its_bound_but_for_the_least_prefill(
    work: list[tuple[int, int]], rate: tuple[float, float]
) -> None:
    simulation = Simulation(*rate)
    for index, (num_prompt, max_tokens) in enumerate(work):
        simulation.add(str(index), num_prompt, max_tokens)
        simulation.step()
    while simulation.step():
        pass
    for step, seconds, bound in simulation.steps:
        of_streams = simulation.decode * (0.9 + 0.1 * step.num_decoding) if step.num_decoding else 0.0
        is_least = step.num_prefill_tokens < MIN_PREFILL_TOKENS + ROWS
        assert step.is_decode or is_least or seconds <= bound + of_streams + 1e-9


@settings(deadline=None)
@given(jobs, rates)
def test_each_step_has_every_stream_and_advances_the_prompts_by_their_least(
    work: list[tuple[int, int]], rate: tuple[float, float]
) -> None:
    simulation = Simulation(*rate)
    for index, (num_prompt, max_tokens) in enumerate(work):
        simulation.add(str(index), num_prompt, max_tokens)
    while True:
        sequences = list(simulation.scheduler.sequences)
        waiting = sum(s.num_remaining for s in sequences if s.num_computed < s.num_prompt_tokens)
        num_streams = sum(sequence.is_decoding for sequence in sequences)
        if not simulation.step():
            break
        step = simulation.steps[-1][0]
        assert step.num_decoding == num_streams
        assert step.num_prefill_tokens >= min(MIN_PREFILL_TOKENS, waiting)


def test_no_stream_waits_longer_than_two_bounds_while_a_long_prompt_arrives() -> None:
    simulation = Simulation(prefill=0.004, decode=0.04)
    for index in range(4):
        simulation.add(f"stream {index}", 20, 400)
    for _ in range(40):
        simulation.step()
    simulation.add("long", 1500, 4)
    while len(simulation.token_times["long"]) < 4:
        simulation.step()
    bound = simulation.scheduler.step_bound()
    for index in range(4):
        times = simulation.token_times[f"stream {index}"]
        assert max(b - a for a, b in itertools.pairwise(times)) <= GAP_BUDGETS * bound


def test_streams_that_begin_while_other_prompts_wait_are_not_stalled_by_them() -> None:
    simulation = Simulation(prefill=0.004, decode=0.04)
    for index in range(8):
        simulation.add(f"stream {index}", 300, 30)
    while simulation.step():
        pass
    gaps = [b - a for times in simulation.token_times.values() for a, b in itertools.pairwise(times)]
    assert max(gaps) <= GAP_BUDGETS * 0.25


def test_the_shortest_prompt_goes_first_and_a_long_one_is_not_passed_for_ever() -> None:
    simulation = Simulation(prefill=0.005, decode=0.02)
    simulation.add("long", 800, 2)
    rng = random.Random(1)
    for index in range(400):
        simulation.add(f"short {index}", rng.randrange(40, 60), 1)
        simulation.step()
        if simulation.token_times["long"]:
            break
    # 800 tokens are 4 s of work: once it has waited four times as long, no newcomer passes it.
    assert simulation.token_times["long"][0] < 4 / AGEING + 2 * 4
    assert simulation.token_times["short 0"][0] < simulation.token_times["long"][0]


def test_more_streams_than_a_batch_may_have_outputs_take_turns() -> None:
    simulation = Simulation(prefill=0.001, decode=0.02, num_outputs=2)
    names = [str(index) for index in range(5)]
    for name in names:
        simulation.add(name, 4, 40)
    while any(not simulation.token_times[name] for name in names):
        simulation.step()
    before = {name: len(simulation.token_times[name]) for name in names}
    for _ in range(25):
        simulation.step()
    taken = [len(simulation.token_times[name]) - before[name] for name in names]
    assert taken == [10] * 5


def test_a_step_that_cuts_a_prompt_has_its_rows_by_fours() -> None:
    simulation = Simulation(prefill=0.004, decode=0.03)
    for index in range(3):
        simulation.add(f"stream {index}", 20, 400)
    for _ in range(10):
        simulation.step()
    simulation.add("long", 1500, 4)
    begin = len(simulation.steps)
    while not simulation.token_times["long"]:
        simulation.step()
    sizes = [step.num_tokens for step, _, _ in simulation.steps[begin:-1]]
    assert len(sizes) > 10
    assert all(size % ROWS == 0 for size in sizes), sizes


def test_a_prompt_ends_beside_as_many_streams_as_a_batch_has_outputs() -> None:
    simulation = Simulation(prefill=0.001, decode=0.02, num_outputs=4)
    for index in range(4):
        simulation.add(f"stream {index}", 4, 4000)
    while not all(simulation.token_times.values()):
        simulation.step()
    simulation.add("prompt", 700, 2)
    for _ in range(100):
        simulation.step()
    assert len(simulation.token_times["prompt"]) == 2


def test_chunks_become_smaller_behind_a_long_context() -> None:
    """The prompt's steps stay within their bound although each token costs more than the one before it."""
    costs = CostModel(0.004, RowCosts({1: 0.02}))
    scheduler = Scheduler(budget=0.25, max_batch_tokens=512, max_batch_outputs=32, costs=costs)
    sequence = Sequence("a", list(range(6000)), 6000, 1, 0.0, slot=0)
    scheduler.add(sequence)
    taken = []
    while sequence.num_remaining:
        step = scheduler.schedule(0.0)
        num_tokens = step.num_tokens
        seconds = 0.02 + num_tokens * (0.003 + 2e-6 * (sequence.num_computed + num_tokens / 2))
        taken.append((num_tokens, seconds))
        scheduler.update(step)
        scheduler.observe(step, seconds)
    assert taken[-2][0] < 0.4 * max(num_tokens for num_tokens, _ in taken)
    assert all(0.18 < seconds < 0.26 for _, seconds in taken[10:-1]), taken


def test_the_deterministic_mode_cuts_prompts_only_at_multiples() -> None:
    scheduler = Scheduler(budget=0.25, max_batch_tokens=512, max_batch_outputs=32, canonical_chunk=128)
    sequence = Sequence("a", list(range(300)), 300, 1, 0.0, slot=0)
    scheduler.add(sequence)
    sizes = []
    for now in range(3):
        step = scheduler.schedule(float(now))
        sizes.append(step.num_tokens)
        scheduler.update(step)
        scheduler.observe(step, 9.0)
    assert sizes == [128, 128, 44]


def test_a_span_never_asks_for_more_logits_than_a_batch_may_have() -> None:
    scheduler = Scheduler(budget=9.0, max_batch_tokens=512, max_batch_outputs=8)
    sequence = Sequence("score", list(range(40)), 40, 1, 0.0, slot=0, first_output=10)
    scheduler.add(sequence)
    while sequence.num_remaining:
        step = scheduler.schedule(0.0)
        assert sum(span.num_outputs for span in step.spans) <= 8
        scheduler.update(step)
        scheduler.observe(step, 0.01)


# --- What is scored ---


def scored(simulation: Simulation, name: str, num_tokens: int, num_to_come: int) -> Sequence:
    sequence = simulation.add(name, num_tokens, 1)
    sequence.first_output = 0
    sequence.num_to_come = num_to_come
    return sequence


def test_a_stream_has_a_token_of_each_step_that_is_spent_on_what_is_scored() -> None:
    simulation = Simulation(prefill=0.001, decode=0.01)
    simulation.add("stream", 8, 40)
    simulation.step()
    for index in range(4):
        scored(simulation, f"scored {index}", 500, 5000)
    for _ in range(39):
        simulation.step()
    assert len(simulation.token_times["stream"]) == 40


def test_a_prompt_goes_before_an_evaluation_that_has_much_to_come() -> None:
    simulation = Simulation(prefill=0.005, decode=0.01)
    for index in range(4):
        scored(simulation, f"scored {index}", 100, 6000)
    simulation.now = 2.0
    simulation.add("prompt", 60, 1)
    assert simulation.scheduler.schedule(simulation.now).sequences[0].id == "prompt"
