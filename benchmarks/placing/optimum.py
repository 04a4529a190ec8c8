"""What no rules can do better than, even those that know the whole trace: bounds from below for loads and waits.

What is asked of a schedule: at most so many models at once in all boards together; each turn's model begins to load
within its bound after the turn came, unless it is there; a load takes its time, and the model stays for a turn. What is
not asked: that turns take slots, that boards are drained, that a model's memory is on one board. So every real schedule
that keeps the bounds is one of these, and what is true of all of these is true of all real ones.

What is found is half-planes: `load_price` × loads + `wait_price` × seconds that all turns wait together ≥ `least`. With
a wait price of 0 that bounds the loads of any schedule, with a load price of 0 the waits, and between them the loads of
schedules whose turns wait no longer than so much. The least over all schedules is bounded by Lagrange's relaxation:
being there has a price for each slice of time, by which each model finds its own cheapest schedule (dynamic
programming, from the end). Any prices give a bound, so that prices prove it: `prices.json` has those that `search`
found by subgradient steps, and one evaluation says what they prove. Slices are rounded so that the bound stays one: a
model is asked to pay for whole slices only, and to wait for what it had to if it loaded at a slice's beginning.
What is said of waits is said of schedules that load a model only when somebody waits for it, as all servers here do:
who knew the future would have each model there before it is asked for, and nobody would wait.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from benchmarks.placing.traces import NUM_SLOTS, Trace, Turn

SLICE_SECONDS = 5.0
PRICES = Path(__file__).with_name("prices.json")
LOADS_IN_SECONDS = (None, 400.0, 100.0, 30.0, 0.0)
"""For what a load counts in the half-planes that are looked for, in seconds of a turn's waiting; None: waits count
nothing."""
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Waits:
    """How long turns may wait for their model's load to begin, by class."""

    interactive_seconds: float = 60.0
    batch_seconds: float = 900.0

    def of(self, turn: Turn) -> float:
        """A turn's."""
        return self.interactive_seconds if turn.is_interactive else self.batch_seconds


@dataclass(frozen=True)
class HalfPlane:
    """For every schedule: `load_price` × loads + `wait_price` × seconds that all turns wait together ≥ `least`."""

    load_price: float
    wait_price: float
    least: float


@dataclass(frozen=True)
class Bounds:
    """All half-planes that are known of a trace."""

    planes: tuple[HalfPlane, ...]

    def fewest_loads(self, total_wait: float | None = None) -> int:
        """Of any schedule, or of those whose turns wait no longer than that all together."""
        found = 0.0
        for one in self.planes:
            if one.load_price and (total_wait is not None or not one.wait_price):
                found = max(found, (one.least - one.wait_price * (total_wait or 0.0)) / one.load_price)
        return math.ceil(found - 1e-6)

    def least_wait(self) -> float:
        """Seconds that all turns together wait at the least, whatever is loaded how often."""
        return max((one.least / one.wait_price for one in self.planes if not one.load_price), default=0.0)


class Proof(Struct, frozen=True):
    """Of a half-plane."""

    load_price: float
    wait_price: float
    prices: tuple[float, ...]
    """Of being there, by slice."""


@dataclass(frozen=True)
class Cheapest:
    """What the cheapest schedules by some prices come to."""

    cost: float
    there: Floats
    """Models that are there in each slice."""


def _by_model(trace: Trace) -> dict[str, list[Turn]]:
    found: dict[str, list[Turn]] = {}
    for turn in trace.turns:
        found.setdefault(turn.model.name, []).append(turn)
    return found


class Problem:
    """A trace in slices: arrays whose first index is a model, and whose second is the slice in which it was let go."""

    def __init__(self, trace: Trace, waits: Waits, num_at_once: int, slice_seconds: float = SLICE_SECONDS) -> None:
        self.num_at_once, self._slice = num_at_once, slice_seconds
        self._turns = [turns for _, turns in sorted(_by_model(trace).items())]
        self._loads = [turns[0].model.load_seconds for turns in self._turns]
        self._shortest = [min(turn.seconds for turn in turns) for turns in self._turns]
        self.num_slices = int(max(turn.at + waits.of(turn) for turn in trace.turns) // slice_seconds) + 2
        stays = [load + seconds for load, seconds in zip(self._loads, self._shortest, strict=True)]
        self.stay: Ints = np.array([max(2, math.ceil(one / slice_seconds)) for one in stays])
        """Slices from its load to where it is let go, at least."""
        self.due = self._due(waits)
        """By model and slice in which it was let go: the last slice in which it may load again; −1: nothing comes."""
        last: Ints = self.due - np.arange(self.num_slices + 1, dtype=np.int64) + 1
        ahead = np.arange(max(1, int(np.max(last)) + 1))
        self.too_late: Floats = np.where(ahead[None, None, :] <= last[:, :, None], 0.0, np.inf)
        """By slices from the one before on: whether that is later."""
        self.waited = self._waited(ahead)
        """By the same: seconds that its turns wait together for a load in that slice, at least."""

    def _due(self, waits: Waits) -> Ints:
        due = np.full((len(self._turns), self.num_slices + 1), -1, dtype=np.int64)
        for row, turns in enumerate(self._turns):
            for turn in turns:
                earlier = due[row, : int(turn.at // self._slice) + 1]
                last = int((turn.at + waits.of(turn)) // self._slice)
                earlier[:] = np.where(earlier < 0, last, np.minimum(earlier, last))
        return due

    def _waited(self, ahead: Ints) -> Floats:
        """Those that came too late to be finished before it was let go, and until it is ready again."""
        found = np.zeros(self.too_late.shape)  # at least what it takes to load: somebody waits for that
        gone = np.arange(self.num_slices + 1)
        for row, turns in enumerate(self._turns):
            at = np.array(sorted(turn.at for turn in turns))
            sums = np.concatenate(([0.0], np.cumsum(at)))
            first = np.searchsorted(at, gone * self._slice - self._shortest[row], "right")[:, None]
            ready = np.maximum(0, gone[:, None] - 1 + ahead[None, :]) * self._slice + self._loads[row]
            last = np.maximum(first, np.searchsorted(at, ready, "left"))
            found[row] = np.maximum((last - first) * ready - (sums[last] - sums[first]), self._loads[row])
        return found

    def cheapest(self, prices: Floats, load_price: float = 1.0, wait_price: float = 0.0) -> Cheapest:
        """Each model by itself, where a slice of being there costs that."""
        count, rows = self.num_slices, len(self.stay)
        paid = np.concatenate(([0.0], np.cumsum(prices), [float(prices.sum())] * 2))  # before each slice
        fixed = load_price + wait_price * self.waited + self.too_late
        every = np.arange(rows)
        gone_cost = np.zeros((rows, count + 2))  # from being let go in a slice on
        loaded_cost = np.full((rows, count + 1), np.inf)  # from beginning to load in a slice on
        best_end = np.full((rows, count + 3), np.inf)  # the least of letting go in this slice or later
        end_of = np.full((rows, count + 3), count, dtype=np.int64)
        best_end[:, count] = paid[count - 1]
        load_of = np.full((rows, count + 1), -1, dtype=np.int64)

        def let_go(gone: int) -> None:
            """What it costs to be without each model from then on: when it loads next."""
            first = gone - 1
            low, high = max(0, first), min(first + fixed.shape[2], count)
            options = loaded_cost[:, low:high] + fixed[:, gone, low - first : high - first]
            best = options.argmin(axis=1)
            is_wanted = self.due[:, gone] >= 0
            gone_cost[:, gone] = np.where(is_wanted, options[every, best], 0.0)
            load_of[:, gone] = np.where(is_wanted, best + low, -1)

        for at in range(count - 1, -1, -1):
            end = np.minimum(at + self.stay, count)
            loaded_cost[:, at] = np.maximum(0.0, best_end[every, end] - paid[at + 1])
            gone = at + 1
            if gone < count:
                let_go(gone)
                ending = paid[gone - 1] + gone_cost[:, gone]
                is_better = ending < best_end[:, gone + 1]
                best_end[:, gone] = np.where(is_better, ending, best_end[:, gone + 1])
                end_of[:, gone] = np.where(is_better, gone, end_of[:, gone + 1])
        let_go(0)  # at the start nothing is there, as if it had been let go in slice 0, and slice −1 is none
        return Cheapest(float(gone_cost[:, 0].sum()), self._walk(load_of, end_of))

    def _walk(self, load_of: Ints, end_of: Ints) -> Floats:
        there = np.zeros(self.num_slices)
        for row in range(len(self.stay)):
            gone = 0
            while gone < self.num_slices and (load := int(load_of[row, gone])) >= 0:
                gone = int(end_of[row, min(load + int(self.stay[row]), self.num_slices)])
                there[load + 1 : gone - 1] += 1
        return there

    def plane(self, prices: Floats, load_price: float = 1.0, wait_price: float = 0.0) -> HalfPlane:
        """What these prices prove. None may be negative."""
        assert np.all(prices >= 0)
        cost = self.cheapest(prices, load_price, wait_price).cost
        return HalfPlane(load_price, wait_price, cost - self.num_at_once * float(prices.sum()))


def search(problem: Problem, goal: float, load_price: float, wait_price: float, num_steps: int = 150) -> Floats:
    """Prices that prove much. `goal`: what some schedule comes to, which only guides the steps."""
    prices = best_prices = np.zeros(problem.num_slices)
    best, patience, eagerness = -math.inf, 0, 1.0
    for _ in range(num_steps):
        found = problem.cheapest(prices, load_price, wait_price)
        bound = found.cost - problem.num_at_once * float(prices.sum())
        patience = 0 if bound > best + 1e-3 else patience + 1
        if bound > best:
            best, best_prices = bound, prices
        if patience >= 10:
            eagerness, patience = eagerness / 2, 0
        slope = found.there - problem.num_at_once
        slope[(prices <= 0) & (slope < 0)] = 0.0
        norm = float(slope @ slope)
        if norm == 0 or goal - bound <= 0:
            break
        prices = np.maximum(0.0, prices + eagerness * (goal - bound) / norm * slope)
    return best_prices


def looked_for(trace: Trace, waits: Waits, num_at_once: int, goals: Sequence[tuple[int, float]]) -> list[Proof]:
    """Prices that prove much of a trace. `goals`: loads and seconds of schedules that there are."""
    problem, found = Problem(trace, waits, num_at_once), []
    for seconds in LOADS_IN_SECONDS:
        load_price, wait_price = (1.0, 0.0) if seconds is None else (seconds / 100, 0.01)
        goal = min(load_price * loads + wait_price * wait for loads, wait in goals)
        prices = search(problem, goal, load_price, wait_price)
        found.append(Proof(load_price, wait_price, tuple(round(float(one), 4) for one in prices)))
    return found


def proved(trace: Trace, waits: Waits, num_at_once: int) -> Bounds:
    """What is known of one of the traces in `prices.json`."""
    proofs = msgspec.json.decode(PRICES.read_bytes(), type=dict[str, list[Proof]])[trace.name]
    problem = Problem(trace, waits, num_at_once)
    planes = [problem.plane(np.array(one.prices), one.load_price, one.wait_price) for one in proofs]
    return Bounds((*planes, *by_slots(trace, waits, num_at_once, NUM_SLOTS * num_at_once)))


def fewest_loads(trace: Trace, waits: Waits, goal: int, num_at_once: int) -> int:
    """A number of loads that no schedule is below. `goal`: loads of one that there is."""
    problem = Problem(trace, waits, num_at_once)
    relaxed = problem.plane(search(problem, goal, 1.0, 0.0))
    return Bounds((relaxed, *by_slots(trace, waits, num_at_once, NUM_SLOTS * num_at_once))).fewest_loads()


# --- What the slots say ----------------------------------------------------------------------------------------------


def by_slots(trace: Trace, waits: Waits, num_at_once: int, num_slots: int) -> tuple[HalfPlane, ...]:
    """What follows from turns' taking slots, where so many come at once that this is more than a triviality."""
    fewest = _fewest_loads(trace, waits, num_at_once)
    return HalfPlane(0.0, 1.0, _least_wait(trace, num_slots)), HalfPlane(1.0, 0.0, fewest)


def _least_wait(trace: Trace, num_slots: int) -> float:
    """If all had come with the first, and all models were loaded once the quickest one is: then the shortest first is
    the best that slots can do."""
    first = max(trace.turns[0].at, min(turn.model.load_seconds for turn in trace.turns))
    free, total = [first] * num_slots, 0.0
    for turn in sorted(trace.turns, key=lambda one: one.seconds):
        total += free[0] - turn.at
        heapq.heapreplace(free, free[0] + turn.seconds)
    return max(0.0, total)


def _fewest_loads(trace: Trace, waits: Waits, num_at_once: int) -> int:
    """By when the first turns of all models are due, all of them have been loaded, and no more are there than fit. The
    others have gone by then: for good those whose turns fit all into one board's slots before; the rest is loaded
    again, or was loaded twice."""
    of = _by_model(trace)
    due = max(min(turn.at + waits.of(turn) for turn in turns) for turns in of.values())
    num_finished = 0
    for turns in of.values():
        work = sum(turn.seconds for turn in turns) / NUM_SLOTS
        num_finished += turns[-1].at < due and turns[0].model.load_seconds + work <= due
    return len(of) + max(0, len(of) - num_at_once - num_finished)
