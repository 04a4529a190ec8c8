from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.costs import CostModel
from workers.engine.row_costs import RowCosts


def test_it_learns_what_a_token_costs_and_what_its_context_does() -> None:
    """A machine four times as slow as was thought, where looking back on 1,500 tokens costs as much as the token."""
    costs = CostModel.measured(0.002, 64, RowCosts({1: 0.02}))
    token, context_each, read = 0.006, 4e-6, 0.03
    rng = random.Random(3)
    for _ in range(200):
        costs.rows.observe(1, read)
        num_tokens, context = rng.randrange(16, 128), rng.choice([0, 200, 1000, 3000])
        middle = context + num_tokens / 2
        costs.observe_prefill(num_tokens, middle, 0, read + num_tokens * (token + context_each * middle))
    assert costs.token_seconds == pytest.approx(token, rel=0.05)
    assert costs.context_seconds == pytest.approx(context_each, rel=0.05)
    assert costs.prefill(100, 1000) == pytest.approx(100 * (token + context_each * 1050), rel=0.05)


def test_what_streams_take_beside_a_prompt_is_not_the_prompts() -> None:
    costs = CostModel.measured(0.005, 64, RowCosts({1: 0.02}))
    costs.rows.observe(8, 0.1)
    for _ in range(50):
        costs.observe_prefill(50, 0.0, 8, 0.1 + 50 * 0.004)
    assert costs.token_seconds == pytest.approx(0.004)
    # All told it is what a step with the prompt and no stream would take.
    assert costs.prefill_seconds_per_token == pytest.approx((0.02 + 50 * 0.004) / 50)


def test_a_neighbour_that_makes_decode_steps_dear_makes_no_token_free() -> None:
    costs = CostModel.measured(0.005, 64, RowCosts({1: 0.02}))
    for _ in range(30):
        costs.rows.observe(1, 2.0)
        costs.observe_prefill(64, 0.0, 0, 0.4)
    assert costs.num_tokens(0.25, 0) <= 4 * 0.25 / (0.4 / 64) + 1


@given(st.floats(1e-5, 1), st.floats(0, 1e-4), st.floats(0, 100), st.integers(0, 100_000))
def test_so_many_tokens_as_there_is_time_for(token: float, each: float, seconds: float, context: int) -> None:
    costs = CostModel(token, RowCosts({1: 0.05}), token, each)
    found = costs.num_tokens(seconds, context)
    assert costs.prefill(found, context) <= seconds * (1 + 1e-9)
    assert costs.prefill(found + 1, context) >= seconds * (1 - 1e-9)


def test_no_time_is_no_token() -> None:
    assert CostModel().num_tokens(-0.1, 0) == 0
