"""What guesses gain, and how many of them pay for what they make a step take. Pure.

Streams share a step, so that what is weighed is the geometric mean of what each of them gains: one that repeats itself
gains nothing at the price of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

WORTH = 1.04
"""A step with guesses has to be so many times as good as one without, by what is expected of both."""
LEAST = 0.001
"""A guess that is less likely right is not thought about."""

Gain = tuple[float, int]
"""What one guess adds to its stream's tokens of a step, as a logarithm, and the stream's place in the step."""


def gains_of(likelihoods: Sequence[Sequence[float]]) -> list[Gain]:
    """Of all guesses, the largest first, by how likely each of a stream's is right where all before it are. Of one
    stream each adds less than the one before."""
    found = []
    for place, stream in enumerate(likelihoods):
        expected, all_right = 1.0, 1.0
        for likelihood in stream:
            all_right *= likelihood
            if all_right < LEAST:
                break
            found.append((math.log1p(all_right / expected), place))
            expected += all_right
    return sorted(found, reverse=True)


def chosen(gains: Sequence[Gain], num_streams: int, seconds: Sequence[float], limit: float) -> tuple[int, float]:
    """How many of the gains to take, from the first on, and what is won: the logarithm of how many times as good the
    step is then. It takes `seconds[n]` with n of them, and may take `limit`; none, and 0, where no number is worth it.
    """
    num_chosen, best, gain = 0, math.log(WORTH), 0.0
    for number, (each, _) in enumerate(gains, 1):
        gain += each
        won = gain / num_streams - math.log(seconds[number] / seconds[0])
        if won > best and seconds[number] <= limit:
            num_chosen, best = number, won
    return num_chosen, best if num_chosen else 0.0
