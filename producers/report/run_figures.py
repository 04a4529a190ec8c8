"""The figures of a run for a report, and its decode rate against the length of the context. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from broker import formulas
from producers.records import sweep
from producers.records.figures import NO_BOUNDS, Bounds, Figures, details
from producers.records.files import Run
from producers.records.lines import TurnRecord
from producers.records.quantities import QUANTITIES, Spread, spread
from producers.report.roofline import Roofline, rooflines


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
    num_calls: int = 0
    num_broken_calls: int = 0
    num_rounds: int = 0
    """Turns that brought results of tools."""
    rooflines: list[Roofline] = []
    """Of each worker that told what its memory gives to readers."""


def figures(run: Run, bounds: Bounds = NO_BOUNDS, joules: float | None = None) -> RunFigures:
    """A run's figures, without its warm-up and cool-down. `joules` are those of all its turns.

    Without `bounds` they are those that the run itself was told to meet.
    """
    turns = run.counted()
    begun = min((turn.sent_at for turn in turns), default=0.0)
    seconds = max((turn.ended_at for turn in turns), default=0.0) - begun
    bounds = bounds or sweep.own_bounds(run.header.settings)
    of_turns = Figures(turns, seconds, bounds)
    tokens = of_turns.completion_tokens
    spreads = {quantity.key: spread(of_turns.values(quantity)) for quantity in QUANTITIES}
    levels = sweep.levels(turns, run.header.settings, bounds)
    found = rooflines(run)
    return RunFigures(
        run=run.name,
        model=str(run.header.settings.get("model", "")),
        num_turns=len(turns),
        num_failed=of_turns.num_failed,
        num_cancelled=of_turns.outcomes.get("cancelled", 0),
        seconds=seconds,
        is_whole=run.seconds is not None,
        outcomes=of_turns.outcomes,
        turns_per_second=of_turns.turns_per_second or 0.0,
        tokens_per_second=of_turns.tokens_per_second or 0.0,
        cached_share=of_turns.cached_share,
        goodput_turns_per_second=of_turns.goodput_turns_per_second,
        itl=spread(list(of_turns.gaps())),
        quantities={key: one for key, one in spreads.items() if one is not None},
        notes=[
            *run.notes,
            *filter(None, [sweep.verdict(levels, bounds)]),
            *details(turns),
            *(one.words for one in found),
        ],
        rooflines=found,
        joules_per_token=joules / tokens if joules is not None and tokens else None,
        num_calls=of_turns.num_calls,
        num_broken_calls=of_turns.num_broken_calls,
        num_rounds=of_turns.num_rounds,
    )


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
    return formulas.coefficient_of_variation([one.mean for one in bins])
