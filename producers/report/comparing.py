"""How two runs differ, and whether they may be laid side by side. Pure; every formula names its source."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from msgspec import Struct

from broker import formulas
from producers.records.files import Run
from producers.records.quantities import spread

NUM_RESAMPLES = 1000
MAX_RESAMPLED = 500
"""Of more turns than that the means are as good as normally distributed, and nothing is drawn."""


class Ratio(Struct, frozen=True):
    """How many times as much the other run has in the mean, with its 95 % interval."""

    ratio: float
    low: float
    high: float


def ratio(first: Sequence[float], other: Sequence[float], seed: int = 0) -> Ratio | None:
    """mean(other) ÷ mean(first), by the percentile bootstrap (Efron 1979): both runs' turns are drawn with replacement.

    Of many turns by the delta method (Oehlert 1992) instead. None where a mean would be zero or there is nothing to
    compare.
    """
    if not first or not other or not sum(first):
        return None
    if max(len(first), len(other)) > MAX_RESAMPLED:
        return _delta(first, other)
    rng = random.Random(seed)
    drawn = []
    for _ in range(NUM_RESAMPLES):
        below = sum(rng.choices(first, k=len(first))) / len(first)
        above = sum(rng.choices(other, k=len(other))) / len(other)
        if below:
            drawn.append(above / below)
    low, high = formulas.percentile(drawn, 2.5), formulas.percentile(drawn, 97.5)
    found = (sum(other) / len(other)) / (sum(first) / len(first))
    return Ratio(found, low or 0.0, high or 0.0)


def _delta(first: Sequence[float], other: Sequence[float]) -> Ratio:
    found = (sum(other) / len(other)) / (sum(first) / len(first))
    relative = 0.0
    for sample in (first, other):
        of = spread(sample)
        assert of is not None
        relative += (of.standard_deviation / of.mean) ** 2 / of.count if of.mean else 0.0
    margin = 1.96 * abs(found) * math.sqrt(relative)
    return Ratio(found, found - margin, found + margin)


def comparable(runs: Sequence[Run], *, of_one_model: bool = True) -> list[str]:
    """Why runs should not be laid side by side without a word: another model, quantisation, data set or length."""
    if len(runs) < 2:
        return []
    found = []
    first = runs[0]
    for other in runs[1:]:
        for name, one, two in (
            ("model", _model(first), _model(other)),
            ("data set", _dataset(first), _dataset(other)),
            ("max_tokens", first.header.settings.get("max_tokens"), other.header.settings.get("max_tokens")),
        ):
            if one != two and (of_one_model or name != "model"):
                found.append(f"{other.name} and {first.name} are not comparable: {name} {two} against {one}")
    return found


def _dataset(run: Run) -> str:
    facts = run.header.dataset
    return f"{facts.get('name')} ({facts.get('num_chosen')} conversations, {str(facts.get('chosen_sha256'))[:8]})"


def _model(run: Run) -> str:
    kinds = {f"{worker.get('model_name')} {worker.get('quantization')}" for worker in run.header.workers}
    return ", ".join(sorted(kinds)) or str(run.header.settings.get("model"))
