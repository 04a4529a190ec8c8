"""What is measured, defined once. Pure functions; durations in seconds, rates per second."""

from __future__ import annotations

import math
from collections.abc import Sequence


def ttft(sent_at: float, first_token_at: float) -> float:
    """Time to first token: from the publish to the first token's arrival, both by the producer's monotonic clock."""
    return first_token_at - sent_at


def tpot(first_token_at: float, last_token_at: float, num_tokens: int) -> float | None:
    """Time per output token: (last − first) / (n − 1). None for fewer than two tokens."""
    return None if num_tokens < 2 else (last_token_at - first_token_at) / (num_tokens - 1)


def prefill_rate(prompt_tokens: int, cached_tokens: int, seconds: float) -> float | None:
    """Prompt tokens that were computed, not taken from the cache, per second. None when none were."""
    computed = prompt_tokens - cached_tokens
    return computed / seconds if computed > 0 and seconds > 0 else None


def decode_rate(completion_tokens: int, seconds: float) -> float | None:
    """Tokens per second after the first one, which the prefill yields. None for fewer than two tokens."""
    return (completion_tokens - 1) / seconds if completion_tokens > 1 and seconds > 0 else None


def percentile(values: Sequence[float], q: float) -> float | None:
    """The q-th percentile (0–100) with linear interpolation, as numpy's default. None without values."""
    if not values:
        return None
    ordered = sorted(values)
    rank = (len(ordered) - 1) * q / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None without values."""
    return sum(values) / len(values) if values else None


def standard_deviation(values: Sequence[float]) -> float | None:
    """Over the population; None without values."""
    average = mean(values)
    if average is None:
        return None
    return math.sqrt(sum((value - average) ** 2 for value in values) / len(values))


def coefficient_of_variation(values: Sequence[float]) -> float | None:
    """CV = standard deviation ÷ mean, over the population. None without values or for a mean of zero."""
    average, deviation = mean(values), standard_deviation(values)
    return deviation / average if average and deviation is not None else None
