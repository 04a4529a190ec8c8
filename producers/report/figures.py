"""The figures of a run, and how two runs differ. Pure; every formula names its source."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from msgspec import Struct

from broker import metrics
from producers.records import sweep
from producers.records.figures import NO_BOUNDS, Bounds, details
from producers.records.files import Run
from producers.records.lines import TurnRecord

NUM_RESAMPLES = 1000
MAX_RESAMPLED = 500
"""Of more turns than that the means are as good as normally distributed, and nothing is drawn."""
PERCENTILES = (50.0, 90.0, 99.0)


class Spread(Struct, frozen=True):
    """A quantity over the turns of a run."""

    count: int
    mean: float
    standard_deviation: float
    """Over the population."""
    p50: float
    p90: float
    p99: float

    @property
    def cv(self) -> float | None:
        """Standard deviation ÷ mean; None for a mean of zero."""
        return self.standard_deviation / self.mean if self.mean else None


def spread(values: Sequence[float]) -> Spread | None:
    """None without values."""
    mean, deviation = metrics.mean(values), metrics.standard_deviation(values)
    if mean is None or deviation is None:
        return None
    p50, p90, p99 = (metrics.percentile(values, q) or 0.0 for q in PERCENTILES)
    return Spread(len(values), mean, deviation, p50, p90, p99)


class Quantity(Struct, frozen=True):
    """Something that each turn has or has not: how it is called, its unit, and how to read it off a turn."""

    key: str
    title: str
    unit: str
    of: Callable[[TurnRecord], float | None]


QUANTITIES = (
    Quantity("ttft_seconds", "time to first token", "s", lambda turn: turn.ttft_seconds),
    Quantity("scheduled_ttft_seconds", "… from its scheduled send", "s", lambda turn: turn.scheduled_ttft_seconds),
    Quantity("tpot_seconds", "time per output token", "s", lambda turn: turn.tpot_seconds),
    Quantity("latency_seconds", "latency of a turn", "s", lambda turn: turn.latency_seconds),
    Quantity("queue_wait_seconds", "queue wait", "s", lambda turn: turn.queue_wait_seconds),
    Quantity("prefill_tokens_per_second", "prefill", "tokens/s", lambda turn: turn.prefill_tokens_per_second),
    Quantity("decode_tokens_per_second", "decode", "tokens/s", lambda turn: turn.decode_tokens_per_second),
    Quantity("prompt_tokens", "prompt", "tokens", lambda turn: float(turn.prompt_tokens)),
    Quantity("completion_tokens", "answer", "tokens", lambda turn: float(turn.completion_tokens)),
)


def values(turns: Sequence[TurnRecord], quantity: Quantity) -> list[float]:
    """Of the turns that were answered and have it."""
    return [value for turn in turns if not turn.is_failed and (value := quantity.of(turn)) is not None]


class RunFigures(Struct, frozen=True):
    """What a report says of a run."""

    run: str
    model: str
    num_turns: int
    num_failed: int
    num_cancelled: int
    seconds: float
    is_whole: bool
    """Whether the run came to its end."""
    outcomes: dict[str, int]
    turns_per_second: float
    tokens_per_second: float
    cached_share: float | None
    goodput_turns_per_second: float | None
    itl: Spread | None
    """Gaps between tokens, pooled over all turns."""
    quantities: dict[str, Spread]
    notes: list[str]
    joules_per_token: float | None = None
    """Of the generated tokens; None without telemetry, or where no board told its watts."""


def figures(run: Run, bounds: Bounds = NO_BOUNDS, joules: float | None = None) -> RunFigures:
    """A run's figures, without its warm-up and cool-down. `joules` are those of all its turns.

    Without `bounds` they are those that the run itself was told to meet.
    """
    turns = run.counted()
    done = [turn for turn in turns if not turn.is_failed]
    begun = min((turn.sent_at for turn in turns), default=0.0)
    seconds = max((turn.ended_at for turn in turns), default=0.0) - begun
    outcomes: dict[str, int] = {}
    for turn in turns:
        outcomes[turn.outcome] = outcomes.get(turn.outcome, 0) + 1
    prompt = sum(turn.prompt_tokens for turn in done)
    tokens = sum(turn.completion_tokens for turn in done)
    bounds = bounds or sweep.own_bounds(run.header.settings)
    num_good = sum(bounds.are_met(turn) for turn in turns)
    found = sweep.levels(turns, run.header.settings, bounds)
    spreads = {quantity.key: spread(values(turns, quantity)) for quantity in QUANTITIES}
    return RunFigures(
        run=run.name,
        model=str(run.header.settings.get("model", "")),
        num_turns=len(turns),
        num_failed=len(turns) - len(done),
        num_cancelled=outcomes.get("cancelled", 0),
        seconds=seconds,
        is_whole=run.seconds is not None,
        outcomes=dict(sorted(outcomes.items())),
        turns_per_second=len(done) / seconds if seconds else 0.0,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        cached_share=sum(turn.cached_tokens for turn in done) / prompt if prompt else None,
        goodput_turns_per_second=num_good / seconds if bounds and seconds else None,
        itl=spread([gap for turn in done for gap in turn.gaps()]),
        quantities={key: one for key, one in spreads.items() if one is not None},
        notes=[*run.notes, *filter(None, [sweep.verdict(found, bounds)]), *details(turns)],
        joules_per_token=joules / tokens if joules is not None and tokens else None,
    )


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
    low, high = metrics.percentile(drawn, 2.5), metrics.percentile(drawn, 97.5)
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


class Bin(Struct, frozen=True):
    """Turns whose context begins in [low, high): the decode rate there."""

    low: int
    high: int
    count: int
    mean: float


def by_context(turns: Sequence[TurnRecord], num_bins: int = 8) -> list[Bin]:
    """Decode throughput against the tokens that a turn's decode begins behind, in bins of one width."""
    found = [
        (turn.prompt_tokens, rate)
        for turn in turns
        if not turn.is_failed and (rate := turn.decode_tokens_per_second) is not None
    ]
    if not found:
        return []
    width = max(1, math.ceil((max(context for context, _ in found) + 1) / num_bins))
    bins = []
    for low in range(0, width * num_bins, width):
        rates = [rate for context, rate in found if low <= context < low + width]
        if rates:
            bins.append(Bin(low, low + width, len(rates), sum(rates) / len(rates)))
    return bins


def context_cv(bins: Sequence[Bin]) -> float | None:
    """The paper's coefficient of variation: of the mean throughput over the bins of context length."""
    return metrics.coefficient_of_variation([one.mean for one in bins])


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
