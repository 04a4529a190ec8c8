from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import formulas


def test_times_and_rates_by_hand() -> None:
    assert formulas.ttft(10.0, 10.5) == 0.5
    assert formulas.tpot(1.0, 3.0, 5) == 0.5
    assert formulas.tpot(1.0, 1.0, 1) is None
    assert formulas.prefill_rate(100, 60, 2.0) == 20.0
    assert formulas.prefill_rate(100, 100, 0.0) is None
    assert formulas.decode_rate(11, 2.0) == 5.0
    assert formulas.decode_rate(1, 0.0) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2))
def test_the_median_is_the_fiftieth_percentile(values: list[float]) -> None:
    assert formulas.percentile(values, 50) == pytest.approx(statistics.median(values))
    assert formulas.percentile(values, 0) == min(values)
    assert formulas.percentile(values, 100) == max(values)


def test_no_values_have_no_figures() -> None:
    assert formulas.percentile([], 50) is None
    assert formulas.mean([]) is None
    assert formulas.coefficient_of_variation([]) is None
    assert formulas.coefficient_of_variation([0.0, 0.0]) is None


def test_the_coefficient_of_variation_is_the_populations() -> None:
    assert formulas.coefficient_of_variation([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(0.4)
