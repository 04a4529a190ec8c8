"""What is simulated: the paper's eight models on four boards of 8 GB, and when turns come.

A board holds one of these models at a time, by the worker's own memory plan. Chance is a seed's: a trace is the same
everywhere.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from broker.catalogue import read_catalogue
from tools.boards import available_bytes, on_k3s

BOARDS = ("board-1", "board-2", "board-3", "board-4")
BOARD_GIB = 8
NUM_MODELS = 8
NUM_SLOTS = 4
"""Turns that a board computes at once, of whichever of its models."""
READ_BYTES = 400e6
"""Of a model's file that are read in a second: about what an NVMe drive gives on the one lane of PCIe 2.0 that a
Raspberry Pi 5 has. Not measured by us."""
START_SECONDS = 3.0
"""Of a worker's process, before it reads and after."""
ANSWER_TOKENS = 30
SHARE = 0.6
"""Of the tokens/s that a conversation alone gets at most (docs/boards.md), what each of four at once gets."""


@dataclass(frozen=True)
class Model:
    """What placement has to do with: bytes and seconds."""

    name: str
    planned_bytes: int
    load_seconds: float
    turn_seconds: float
    """Of a turn in its slot, on average."""


@dataclass(frozen=True)
class Turn:
    """One turn of a trace."""

    number: int
    at: float
    model: Model
    is_interactive: bool
    seconds: float
    """In its slot."""


@dataclass(frozen=True)
class Trace:
    """When turns of which model come, in order."""

    name: str
    turns: tuple[Turn, ...]


@cache
def models() -> tuple[Model, ...]:
    """The first eight of the catalogue: the paper's families."""
    found = []
    for name, entry in list(read_catalogue().items())[:NUM_MODELS]:
        placed = on_k3s(entry, BOARD_GIB)
        seconds = ANSWER_TOKENS / (SHARE * placed.tokens_per_second[0])
        found.append(Model(name, placed.plan.needed, START_SECONDS + entry.size_bytes / READ_BYTES, seconds))
    return tuple(found)


def board_bytes() -> int:
    """What a board has for models."""
    return available_bytes(BOARD_GIB)


def most_at_once() -> int:
    """Models that all boards together can hold at most, however they are placed."""
    left, count = board_bytes(), 0
    for size in sorted(one.planned_bytes for one in models()):
        left -= size
        count += left >= 0
    return count * len(BOARDS)


_Arrival = tuple[float, int, bool]
"""When, which model, whether somebody waits for it."""


def _turns(arrivals: Sequence[_Arrival], chance: random.Random) -> tuple[Turn, ...]:
    """Milliseconds are exact, so that no platform's logarithm orders two turns otherwise."""
    ordered = sorted((round(at, 3), index, is_interactive) for at, index, is_interactive in arrivals)
    found = []
    for number, (at, index, is_interactive) in enumerate(ordered):
        model = models()[index]
        seconds = round(model.turn_seconds * chance.uniform(0.5, 1.5), 3)
        found.append(Turn(number, at, model, is_interactive, seconds))
    return tuple(found)


def _poisson(rate: float, until: float, chance: random.Random) -> Iterator[float]:
    at = chance.expovariate(rate)
    while at < until:
        yield at
        at += chance.expovariate(rate)


def poisson(seed: int = 1, seconds: float = 2400.0, rate: float = 0.25) -> Trace:
    """Turns at random, of some models more than of others (the n-th has 1/n of the first one's), seven in ten of them
    interactive."""
    chance = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(NUM_MODELS)]
    arrivals: list[_Arrival] = []
    for at in _poisson(rate, seconds, chance):
        arrivals.append((at, chance.choices(range(NUM_MODELS), weights)[0], chance.random() < 0.7))
    return Trace("Poisson", _turns(arrivals, chance))


def bursts(seed: int = 2, seconds: float = 2400.0, every: float = 50.0) -> Trace:
    """Four to sixteen turns of one model within twenty seconds, a burst in fifty; half of the bursts interactive."""
    chance = random.Random(seed)
    arrivals: list[_Arrival] = []
    for at in _poisson(1 / every, seconds, chance):
        index, is_interactive = chance.randrange(NUM_MODELS), chance.random() < 0.5
        arrivals += [(at + chance.uniform(0, 20), index, is_interactive) for _ in range(chance.randint(4, 16))]
    return Trace("bursts", _turns(arrivals, chance))


def day_and_night(seed: int = 3, day: float = 1200.0, num_days: int = 2, rate: float = 0.3) -> Trace:
    """Each model has its hours, one after the other, and some turns at any time; a day is twenty minutes. By day, its
    first half, nine turns in ten are interactive, by night two."""
    chance = random.Random(seed)
    arrivals: list[_Arrival] = []
    for at in _poisson(rate, day * num_days, chance):
        hours = [2 * math.pi * (at / day - index / NUM_MODELS) for index in range(NUM_MODELS)]
        weights = [0.1 + max(0.0, math.sin(hour)) ** 2 for hour in hours]
        share = 0.9 if at % day < day / 2 else 0.2
        arrivals.append((at, chance.choices(range(NUM_MODELS), weights)[0], chance.random() < share))
    return Trace("day and night", _turns(arrivals, chance))


def all_at_once(seed: int = 4, each: int = 15) -> Trace:
    """Fifteen turns of every model within a second, in any order, half of them interactive."""
    chance = random.Random(seed)
    arrivals = [(chance.random(), index, number % 2 == 0) for index in range(NUM_MODELS) for number in range(each)]
    return Trace("all at once", _turns(arrivals, chance))


OTHER_SEEDS = (11, 12, 13)
"""With which the same is true: what is told of the traces is no luck of theirs."""
SEEDED: tuple[Callable[[int], Trace], ...] = (poisson, bursts, day_and_night, all_at_once)
TRACES: tuple[Callable[[], Trace], ...] = (poisson, bursts, day_and_night, all_at_once)
