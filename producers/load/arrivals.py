"""When turns are sent: absolute, seeded schedules. Pure: seconds since the run's start, in order.

A schedule never waits for answers, so that a slow system gets no easier load than a quick one (open loop); `closed`, C
conversations at once, is the other kind and has no schedule. Rates are turns per second.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from broker.errors import TurnpikeError
from producers.data.rows import RowError, read_rows


class BadArrivals(TurnpikeError):
    """An arrival specification or a trace that makes no sense; says where."""


class BadTrace(RowError, BadArrivals):
    """A trace that cannot be read, or a line of it."""


@dataclass(frozen=True)
class Closed:
    """No schedule: so many conversations at once, each going on when it was answered (and thought)."""


@dataclass(frozen=True)
class Constant:
    """One turn every 1/rate seconds."""

    rate: float

    def offsets(self, rng: random.Random) -> Iterator[float]:
        """Without an end."""
        return (number / self.rate for number in count())


@dataclass(frozen=True)
class Gamma:
    """Independent gaps of mean 1/rate whose shape is `burstiness`: 1 is Poisson, less is burstier, more evener.

    As vLLM's `--burstiness` has it; a gap's coefficient of variation is 1/√burstiness.
    """

    rate: float
    burstiness: float = 1.0

    def offsets(self, rng: random.Random) -> Iterator[float]:
        """Without an end."""
        at = 0.0
        while True:
            at += rng.gammavariate(self.burstiness, 1 / (self.rate * self.burstiness))
            yield at


@dataclass(frozen=True)
class Ramp:
    """A Poisson process whose rate goes from one to another in a line within `seconds`, and ends there."""

    first: float
    last: float
    seconds: float

    def offsets(self, rng: random.Random) -> Iterator[float]:
        """Those before `seconds`."""
        # By inversion: unit-rate arrivals through the inverse of the integrated rate (Çinlar 1975).
        total, slope = 0.0, (self.last - self.first) / self.seconds
        while True:
            total += rng.expovariate(1.0)
            if abs(slope) < 1e-12:
                at = total / self.first
            else:
                inner = self.first * self.first + 2 * slope * total
                at = (math.sqrt(inner) - self.first) / slope if inner >= 0 else math.inf
            if at > self.seconds:
                return
            yield at


@dataclass(frozen=True)
class Steps:
    """A Poisson process at one rate after the other: (turns per second, seconds)."""

    levels: tuple[tuple[float, float], ...]

    def offsets(self, rng: random.Random) -> Iterator[float]:
        """Those before the last level's end."""
        begin = 0.0
        for rate, seconds in self.levels:
            at = begin
            while rate > 0 and (at := at + rng.expovariate(rate)) < begin + seconds:
                yield at
            begin += seconds


@dataclass(frozen=True)
class Trace:
    """Offsets from a file of JSON lines with `offset` in seconds, in order."""

    times: tuple[float, ...]

    def offsets(self, rng: random.Random) -> Iterator[float]:
        """As the file has them."""
        return iter(self.times)


Open = Constant | Gamma | Ramp | Steps | Trace
Arrivals = Closed | Open


def parse(text: str) -> Arrivals:
    """`closed`, `constant:2`, `poisson:2`, `gamma:2:0.5`, `ramp:1:8:60`, `step:1x30,4x30`, `trace:FILE`.

    Raises BadArrivals.
    """
    kind, _, rest = text.partition(":")
    try:
        match kind, rest.split(":"):
            case "closed", [""]:
                return Closed()
            case "constant", [rate]:
                return Constant(_positive(rate))
            case "poisson", [rate]:
                return Gamma(_positive(rate))
            case "gamma", [rate, burstiness]:
                return Gamma(_positive(rate), _positive(burstiness))
            case "ramp", [first, last, seconds]:
                return Ramp(_positive(first), _positive(last), _positive(seconds))
            case "step", [levels]:
                pairs = (level.split("x") for level in levels.split(","))
                return Steps(tuple((_positive(rate, zero=True), _positive(seconds)) for rate, seconds in pairs))
            case "trace", _ if rest:
                return read_trace(Path(rest).expanduser())
    except ValueError as error:
        raise BadArrivals(f"--arrivals {text}: {error}") from None
    raise BadArrivals(
        f"--arrivals {text}: is none of closed, constant:RATE, poisson:RATE, gamma:RATE:BURSTINESS, "
        "ramp:FROM:TO:SECONDS, step:RATExSECONDS,…, trace:FILE"
    )


def _positive(text: str, *, zero: bool = False) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{text} must be above 0")
    return value


def read_trace(path: Path) -> Trace:
    """The offsets of a trace; raises BadTrace with the line that is wrong or out of order."""
    times: list[float] = []
    # A schedule without one of its arrivals is another one: here a bad row is no row to leave out.
    bad: list[BadTrace] = []
    for number, row in read_rows(path, bad, BadTrace):
        if bad:
            break
        at = row.get("offset") if isinstance(row, dict) else None
        if isinstance(at, bool) or not isinstance(at, int | float | str):
            raise BadTrace(path, number, 'is no line like {"offset": 1.5}')
        try:
            at = float(at)
        except (ValueError, OverflowError):
            raise BadTrace(path, number, 'is no line like {"offset": 1.5}') from None
        if not math.isfinite(at) or at < 0 or (times and at < times[-1]):
            raise BadTrace(path, number, f"offset {at:g} is out of order")
        times.append(at)
    if bad:
        raise BadTrace(path, bad[0].line, f'is no line like {{"offset": 1.5}}: {bad[0].reason}')
    if not times:
        raise BadTrace(path, None, "holds no lines")
    return Trace(tuple(times))


@dataclass(frozen=True)
class Think:
    """How long a user thinks before the next message: not at all, always the same, or exponentially distributed."""

    seconds: float = 0.0
    is_exponential: bool = False

    @classmethod
    def parse(cls, text: str) -> Think:
        """`0`, `fixed:2` or `exponential:2`; raises BadArrivals."""
        kind, _, rest = text.partition(":")
        try:
            if not rest and _positive(kind, zero=True) == 0:
                return cls()
            if kind in ("fixed", "exponential"):
                return cls(_positive(rest, zero=True), kind == "exponential")
        except ValueError:
            pass
        raise BadArrivals(f"--think {text}: is none of 0, fixed:SECONDS, exponential:SECONDS")

    def draw(self, rng: random.Random) -> float:
        """Seconds of one user's thinking."""
        if not self.seconds:
            return 0.0
        return rng.expovariate(1 / self.seconds) if self.is_exponential else self.seconds


def share(times: Iterator[float], part: int, num_parts: int) -> Iterator[tuple[int, float]]:
    """Every `num_parts`-th arrival with its number: parts of one run take turns on one schedule."""
    return ((number, at) for number, at in enumerate(times) if number % num_parts == part)


def stream(seed: int, what: str, number: int) -> random.Random:
    """Randomness of its own for the n-th of something: the same whoever draws it, in whatever order."""
    return random.Random(f"{seed}/{what}/{number}")
