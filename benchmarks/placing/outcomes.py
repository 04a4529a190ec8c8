"""What came of each trace under each server's rules, and what had to be."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from benchmarks.placing.optimum import Bounds, Waits, proved
from benchmarks.placing.ours import Turnpike
from benchmarks.placing.rivals import (
    Front,
    Instance,
    LlamaSwap,
    Ollama,
    Router,
    Several,
    by_model,
    informed,
    least_busy,
)
from benchmarks.placing.room import Board, Room
from benchmarks.placing.traces import Trace, most_at_once
from workers.boards.placement import DEFAULT_RULES, Rules

RIVALS: dict[str, Callable[[Room, Board], Instance]] = {
    "Ollama": Ollama,
    "llama-swap": LlamaSwap,
    "llama-server's router": Router,
}
FRONTS: dict[str, Front] = {"least connections": least_busy, "a board for each model": by_model}
OURS = "Turnpike"
OTHER_RULES = {
    "no second copies": replace(DEFAULT_RULES, copy_loads=math.inf),
    **{
        f"no second copies, patience of {loads:g} loads": replace(
            DEFAULT_RULES, copy_loads=math.inf, patience_loads=loads
        )
        for loads in (0.5, 1.0, 2.0)
    },
}
"""What saves swaps, and costs waits."""
WAITS = Waits(DEFAULT_RULES.interactive_seconds, DEFAULT_RULES.batch_seconds)
MAX_SWAPS, MAX_WAIT = 1.5, 0.5
"""Targets: swaps ÷ the fewest there can be, mean wait ÷ the best other server's."""


@dataclass(frozen=True)
class Outcome:
    """A trace under one server's rules. Seconds are from a turn's arrival to its slot."""

    name: str
    room: Room

    @property
    def num_swaps(self) -> int:
        """Models that were unloaded for another."""
        return self.room.num_swaps

    @property
    def loading_seconds(self) -> float:
        """Of all boards together."""
        return self.room.loading_seconds

    @cached_property
    def total_wait(self) -> float:
        """Of all turns together."""
        return sum(one.wait for one in self.room.seated)

    @cached_property
    def mean_wait(self) -> float:
        """Of all turns."""
        return statistics.fmean(one.wait for one in self.room.seated)

    @cached_property
    def interactive_waits(self) -> list[float]:
        """Of interactive turns, in order."""
        return sorted(one.wait for one in self.room.seated if one.turn.is_interactive)

    @cached_property
    def longest_away(self) -> float:
        """The longest at a stretch that an interactive turn waited while no board had its model or began to load it."""
        return max(0.0, *(self.room.absent.longest(one) for one in self.room.seated if one.turn.is_interactive))

    @cached_property
    def longest_unserved(self) -> float:
        """The same while no board took turns of it, beyond its load: what its own turns in hand took is counted too."""
        return max(
            self.room.unserved.longest(one) - one.turn.model.load_seconds
            for one in self.room.seated
            if one.turn.is_interactive
        )


@dataclass(frozen=True)
class Comparison:
    """A trace under everybody's rules."""

    trace: Trace
    ours: Outcome
    rivals: tuple[Outcome, ...]
    """Each with what suits it best before it."""
    informed: tuple[Outcome, ...]
    """The same behind a proxy that knows what is loaded where."""
    bounds: Bounds
    """What no schedule is below that keeps the bounds of waiting."""
    others: tuple[tuple[str, Outcome], ...]
    """Ours by other rules, and which."""

    @property
    def fewest_swaps(self) -> int:
        """No schedule has less."""
        return self.bounds.fewest_loads() - most_at_once()

    def fewest_at(self, mean_wait: float) -> int:
        """No schedule has less whose turns wait no longer than that, on average."""
        return self.bounds.fewest_loads(mean_wait * len(self.trace.turns)) - most_at_once()

    @property
    def least_wait(self) -> float:
        """On average, of any schedule, whatever it loads how often."""
        return self.bounds.least_wait() / len(self.trace.turns)

    @property
    def best_rival(self) -> Outcome:
        """By mean wait."""
        return min(self.rivals, key=lambda one: one.mean_wait)

    @property
    def wait_ratio(self) -> float:
        """Ours ÷ the best rival's."""
        return self.ours.mean_wait / self.best_rival.mean_wait

    @property
    def swap_ratio(self) -> float:
        """Ours ÷ the fewest."""
        return self.ours.num_swaps / max(1, self.fewest_swaps)


def with_ours(trace: Trace, rules: Rules = DEFAULT_RULES) -> Outcome:
    """Under ours."""
    room = Room()
    room.run(trace, Turnpike(room, rules))
    return Outcome(OURS, room)


def with_rival(trace: Trace, name: str, front: Front) -> Outcome:
    """Under another's, behind that proxy."""
    room = Room()
    room.run(trace, Several(room, RIVALS[name], front))
    return Outcome(name, room)


def best_of(trace: Trace, name: str) -> Outcome:
    """With the proxy behind which turns wait least."""
    found = {told: with_rival(trace, name, front) for told, front in FRONTS.items()}
    front, best = min(found.items(), key=lambda one: one[1].mean_wait)
    return Outcome(f"{name}, {front}", best.room)


def compare(trace: Trace) -> Comparison:
    """Everybody, and the bounds."""
    return Comparison(
        trace,
        with_ours(trace),
        tuple(best_of(trace, name) for name in RIVALS),
        tuple(with_rival(trace, name, informed) for name in RIVALS),
        proved(trace, WAITS, most_at_once()),
        tuple((told, with_ours(trace, rules)) for told, rules in OTHER_RULES.items()),
    )
