"""The fewest loads that any rules could do with, even those that know the whole trace: a bound from below.

What is asked of a schedule: at most so many models at once in all boards together; each turn's model begins to load
within its bound after the turn came, unless it is there; a load takes its time, and the model stays for a turn. What is
not asked: that turns take slots, that boards are drained, that a model's memory is on one board. So every real schedule
that keeps the bounds is one of these, and the least of these is a bound for all of them.

The least over all is bounded by Lagrange's relaxation: being there has a price for each slice of time, by which each
model finds its own cheapest schedule (dynamic programming, from the end). Any prices give a bound; subgradient steps
look for good ones. Slices are rounded so that the bound stays one: a model is asked to pay for whole slices only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.placing.traces import Model, Trace

SLICE_SECONDS = 10.0
NUM_STEPS = 150
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Waits:
    """How long turns may wait for their model's load to begin, by class."""

    interactive_seconds: float = 60.0
    batch_seconds: float = 900.0


class Problem:
    """A trace in slices: arrays whose first index is a model, and whose second is the slice in which it was let go."""

    def __init__(self, trace: Trace, waits: Waits, num_at_once: int, slice_seconds: float = SLICE_SECONDS) -> None:
        self.num_at_once, self._slice = num_at_once, slice_seconds
        of: dict[str, list[tuple[float, float]]] = {}
        known: dict[str, Model] = {}
        shortest: dict[str, float] = {}
        for turn in trace.turns:
            name = turn.model.name
            known[name] = turn.model
            bound = waits.interactive_seconds if turn.is_interactive else waits.batch_seconds
            of.setdefault(name, []).append((turn.at, turn.at + bound))
            shortest[name] = min(shortest.get(name, math.inf), turn.seconds)
        latest = max(deadline for turns in of.values() for _, deadline in turns)
        self.num_slices = int(latest // slice_seconds) + 2
        names = sorted(of)
        loads = [known[name].load_seconds for name in names]
        stays = [load + shortest[name] for name, load in zip(names, loads, strict=True)]
        self.stay: Ints = np.array([max(2, math.ceil(one / slice_seconds)) for one in stays])
        """Slices from its load to where it is let go, at least."""
        self.due = self._due([of[name] for name in names])
        """By model and slice in which it was let go: the last slice in which it may load again; −1: nothing comes."""
        last: Ints = self.due - np.arange(self.num_slices + 1, dtype=np.int64) + 1
        ahead = np.arange(max(1, int(np.max(last)) + 1))
        self.too_late: Floats = np.where(ahead[None, None, :] <= last[:, :, None], 0.0, np.inf)
        """By slices from the one before on: whether that is later."""

    def _due(self, of: Sequence[Sequence[tuple[float, float]]]) -> Ints:
        due = np.full((len(of), self.num_slices + 1), -1, dtype=np.int64)
        for row, turns in enumerate(of):
            for at, deadline in turns:
                earlier = due[row, : int(at // self._slice) + 1]
                last = int(deadline // self._slice)
                earlier[:] = np.where(earlier < 0, last, np.minimum(earlier, last))
        return due

    def cheapest(self, prices: Floats) -> tuple[float, Floats]:
        """Each model by itself: what all of them cost, and how many are there in each slice."""
        count, rows = self.num_slices, len(self.stay)
        paid = np.concatenate(([0.0], np.cumsum(prices), [float(prices.sum())] * 2))  # before each slice
        every = np.arange(rows)
        gone_cost = np.zeros((rows, count + 2))  # from being let go in a slice on
        loaded_cost = np.full((rows, count + 1), np.inf)  # from beginning to load in a slice on
        best_end = np.full((rows, count + 3), np.inf)  # the least of letting go in this slice or later
        end_of = np.full((rows, count + 3), count, dtype=np.int64)
        best_end[:, count] = paid[count - 1]
        load_of = np.full((rows, count + 1), -1, dtype=np.int64)
        for at in range(count - 1, -1, -1):
            end = np.minimum(at + self.stay, count)
            loaded_cost[:, at] = np.maximum(0.0, best_end[every, end] - paid[at + 1])
            gone = at + 1
            if gone < count:
                self._let_go(gone, loaded_cost, gone_cost, load_of)
                ending = paid[gone - 1] + gone_cost[:, gone]
                is_better = ending < best_end[:, gone + 1]
                best_end[:, gone] = np.where(is_better, ending, best_end[:, gone + 1])
                end_of[:, gone] = np.where(is_better, gone, end_of[:, gone + 1])
        # At the start nothing is there, as if it had been let go in slice 0, and slice −1 is none.
        self._let_go(0, loaded_cost, gone_cost, load_of)
        return float(gone_cost[:, 0].sum()), self._walk(load_of, end_of)

    def _let_go(self, gone: int, loaded_cost: Floats, gone_cost: Floats, load_of: Ints) -> None:
        """Fills in what it costs to be without each model from slice `gone` on: when it loads next."""
        first = gone - 1
        low, high = max(0, first), min(first + self.too_late.shape[2], self.num_slices)
        options = 1.0 + loaded_cost[:, low:high] + self.too_late[:, gone, low - first : high - first]
        best = options.argmin(axis=1)
        is_wanted = self.due[:, gone] >= 0
        gone_cost[:, gone] = np.where(is_wanted, options[np.arange(len(best)), best], 0.0)
        load_of[:, gone] = np.where(is_wanted, best + low, -1)

    def _walk(self, load_of: Ints, end_of: Ints) -> Floats:
        there = np.zeros(self.num_slices)
        for row in range(len(self.stay)):
            gone = 0
            while gone < self.num_slices and (load := int(load_of[row, gone])) >= 0:
                gone = int(end_of[row, min(load + int(self.stay[row]), self.num_slices)])
                there[load + 1 : gone - 1] += 1
        return there


def fewest_loads(trace: Trace, waits: Waits, goal: int, num_at_once: int, slice_seconds: float = SLICE_SECONDS) -> int:
    """A number of loads that no schedule is below. `goal`: loads of one that there is, which only guides the steps."""
    problem = Problem(trace, waits, num_at_once, slice_seconds)
    prices = np.zeros(problem.num_slices)
    best, patience, eagerness = 0.0, 0, 1.0
    for _ in range(NUM_STEPS):
        cost, there = problem.cheapest(prices)
        bound = cost - problem.num_at_once * float(prices.sum())
        patience = 0 if bound > best + 1e-3 else patience + 1
        best = max(best, bound)
        if patience >= 10:
            eagerness, patience = eagerness / 2, 0
        slope = there - problem.num_at_once
        slope[(prices <= 0) & (slope < 0)] = 0.0
        norm = float(slope @ slope)
        if norm == 0 or goal - bound <= 0:
            break
        prices = np.maximum(0.0, prices + eagerness * (goal - bound) / norm * slope)
    return math.ceil(best - 1e-6)
