from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import metrics


def test_times_and_rates_by_hand() -> None:
    assert metrics.ttft(10.0, 10.5) == 0.5
    assert metrics.tpot(1.0, 3.0, 5) == 0.5
    assert metrics.tpot(1.0, 1.0, 1) is None
    assert metrics.prefill_rate(100, 60, 2.0) == 20.0
    assert metrics.prefill_rate(100, 100, 0.0) is None
    assert metrics.decode_rate(11, 2.0) == 5.0
    assert metrics.decode_rate(1, 0.0) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=2))
def test_the_median_is_the_fiftieth_percentile(values: list[float]) -> None:
    assert metrics.percentile(values, 50) == pytest.approx(statistics.median(values))
    assert metrics.percentile(values, 0) == min(values)
    assert metrics.percentile(values, 100) == max(values)


def test_no_values_have_no_figures() -> None:
    assert metrics.percentile([], 50) is None
    assert metrics.mean([]) is None
    assert metrics.coefficient_of_variation([]) is None
    assert metrics.coefficient_of_variation([0.0, 0.0]) is None


def test_the_coefficient_of_variation_is_the_populations() -> None:
    assert metrics.coefficient_of_variation([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(0.4)
