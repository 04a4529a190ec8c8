"""What a sweep found: the highest rate of which nearly all turns met the bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from producers.records.figures import Bounds, Figures
from producers.records.files import seconds_of
from producers.records.lines import TurnRecord

GOOD_ENOUGH = 0.9
"""A sweep's rate is sustained while so large a share of it is goodput."""


class Level(Struct, frozen=True):
    """One rate, in turns per second, what of it met the bounds, and whether that is enough."""

    rate: float
    goodput: float
    is_sustained: bool


def level(rate: float, turns: Sequence[TurnRecord], seconds: float, bounds: Bounds) -> Level:
    """A rate that was sent for so many seconds."""
    goodput = Figures(turns, seconds, bounds).goodput_turns_per_second or 0.0
    return Level(rate, goodput, bool(turns) and goodput >= GOOD_ENOUGH * len(turns) / seconds)


def levels(turns: Sequence[TurnRecord], settings: Mapping[str, Any], bounds: Bounds) -> list[Level]:
    """A recorded sweep's, from the slowest; none of a run that was no sweep, or without bounds."""
    try:
        seconds = float(str(settings.get("sweep")).partition(":")[2])
    except ValueError:
        return []
    if not 0 < seconds < math.inf:
        return []
    by_rate: dict[float, list[TurnRecord]] = {}
    for turn in turns:
        if turn.level is not None:
            by_rate.setdefault(turn.level, []).append(turn)
    return [level(rate, by_rate[rate], seconds, bounds) for rate in sorted(by_rate)] if bounds else []


def own_bounds(settings: Mapping[str, Any]) -> Bounds:
    """Those that a run was told to meet."""
    return Bounds(seconds_of(settings, "slo_ttft_seconds"), seconds_of(settings, "slo_tpot_seconds"))


def verdict(found: Sequence[Level], bounds: Bounds) -> str | None:
    """In words, with the bounds; None where there is nothing to say."""
    if not found:
        return None
    asked = [
        f"{name} ≤ {value:g} s"
        for name, value in (("first token", bounds.ttft_seconds), ("each further one", bounds.tpot_seconds))
        if value is not None
    ]
    good = [one.rate for one in found if one.is_sustained]
    bad = [one.rate for one in found if not one.is_sustained and (not good or one.rate > max(good))]
    if not good:
        return f"not sustained: {min(bad):g} turns/s, the lowest rate tried ({', '.join(asked)})"
    more = f"; {min(bad):g} were too many" if bad else "; no higher rate was tried"
    return f"sustained {max(good):g} turns/s ({', '.join(asked)}){more}"
