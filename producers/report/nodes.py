"""What the nodes did during a run: from InfluxDB, by InfluxQL, which all its versions answer, or a sidecar's file."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

from broker.errors import TurnpikeError
from broker.influx_address import InfluxAddress
from producers.records.files import Run

TIMEOUT_SECONDS = 30.0
NUM_POINTS = 200
"""Of a series, at most about so many."""


class NoTelemetry(TurnpikeError):
    """The database or file cannot be read; says why."""


@dataclass(frozen=True)
class Series:
    """A line of a picture: seconds since the run's start, and values."""

    name: str
    times: list[float]
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """A picture of one field, a line for each value of the tag `by`. `only` is a tag and the value it must have."""

    title: str
    unit: str
    measurement: str
    field: str
    by: str
    aggregate: Literal["mean", "max"] = "mean"
    factor: float = 1.0
    only: tuple[str, str] | None = None


PANELS = (
    Panel("CPU of the nodes", "%", "cpu", "busy_ratio", "node", factor=100.0, only=("cpu", "all")),
    Panel("Memory of the nodes", "GiB", "memory", "used_bytes", "node", factor=2**-30),
    Panel("Temperature", "°C", "temperature", "celsius", "node", "max"),
    Panel("Power", "W", "power", "watts", "node"),
    Panel("Turns queued", "turns", "queue", "num_pending", "model", "max"),
    Panel("Tokens of the engines", "tokens/s", "engine", "decode_tokens_per_second", "worker"),
)


class Telemetry(Protocol):
    """Where points can be read."""

    def series(self, run: Run, panel: Panel) -> list[Series]:
        """What a panel shows of a run; none of what no board told. Raises NoTelemetry."""
        ...

    def joules(self, run: Run) -> float | None:
        """The energy of a run's turns; None where no board told its watts. Raises NoTelemetry."""
        ...


def telemetry(url: str, token: str | None = None) -> Telemetry:
    """What INFLUX_URL means: a database, or the sidecar's file with `file:PATH`. Raises TurnpikeError."""
    if url.startswith("file:"):
        return FromFile(Path(url.removeprefix("file:").removeprefix("//")).expanduser())
    return FromInflux(InfluxAddress.parse(url, token))


@dataclass(frozen=True)
class FromInflux:
    """A database, asked by InfluxQL."""

    address: InfluxAddress

    def ask(self, statement: str) -> list[dict[str, Any]]:
        """The series of a statement's answer; raises NoTelemetry."""
        query = urllib.parse.urlencode({"db": self.address.database, "q": statement, "epoch": "ns"})
        request = urllib.request.Request(f"{self.address.url}/query?{query}")
        if self.address.authorization is not None:
            request.add_header("Authorization", self.address.authorization)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                result = json.load(answer)["results"][0]
        except (OSError, ValueError, LookupError) as error:
            raise NoTelemetry(f"InfluxDB at {self.address.url}: {error}") from None
        if "error" in result:
            raise NoTelemetry(f"InfluxDB at {self.address.url}: {result['error']}")
        found: list[dict[str, Any]] = result.get("series", [])
        return found

    def series(self, run: Run, panel: Panel) -> list[Series]:
        """What a panel shows of a run, aggregated by the database. Raises NoTelemetry."""
        first, last = window(run)
        only = f"\"{panel.only[0]}\" = '{panel.only[1]}' AND " if panel.only else ""
        statement = (
            f'SELECT {panel.aggregate}("{panel.field}") FROM "{panel.measurement}" WHERE {only}time >= {first} AND '
            f'time <= {last} GROUP BY time({_width(first, last)}ns), "{panel.by}" fill(none)'
        )
        found = []
        for one in self.ask(statement):
            rows = [row for row in one.get("values", ()) if row[1] is not None]
            # A group's time is its beginning, which for the first one lies before the run's.
            times = [max(0.0, (row[0] - first) / 1e9) for row in rows]
            values = [row[1] * panel.factor for row in rows]
            found.append(Series(str(one.get("tags", {}).get(panel.by, "")), times, values))
        return found

    def joules(self, run: Run) -> float | None:
        """The sum over the run's turns. Raises NoTelemetry."""
        name = run.name.replace("'", "")
        found = self.ask(f'SELECT sum("joules") FROM "turn" WHERE "run" = \'{name}\'')
        return float(found[0]["values"][0][1]) if found and found[0]["values"][0][1] is not None else None


@dataclass(frozen=True)
class FromFile:
    """A sidecar's line protocol, with the fuller files that it moved aside (`points.lp.1` is the newest of those)."""

    path: Path

    def series(self, run: Run, panel: Panel) -> list[Series]:
        """What a panel shows of a run, aggregated as InfluxDB would. Raises NoTelemetry."""
        first, last = window(run)
        width = _width(first, last)
        groups: dict[str, dict[int, list[float]]] = {}
        for tags, value, time in self._points(panel.measurement, panel.field):
            if first <= time <= last and (panel.only is None or tags.get(panel.only[0]) == panel.only[1]):
                # Groups begin at whole multiples of their width since the epoch, as InfluxDB's do.
                groups.setdefault(tags.get(panel.by, ""), {}).setdefault(time - time % width, []).append(value)
        found = []
        for name, group in sorted(groups.items()):
            times = [max(0.0, (begin - first) / 1e9) for begin in sorted(group)]
            values = [_AGGREGATES[panel.aggregate](group[begin]) * panel.factor for begin in sorted(group)]
            found.append(Series(name, times, values))
        return found

    def joules(self, run: Run) -> float | None:
        """The sum over the run's turns. Raises NoTelemetry."""
        found = [value for tags, value, _ in self._points("turn", "joules") if tags.get("run") == run.name]
        return sum(found) if found else None

    def _points(self, measurement: str, field: str) -> Iterator[tuple[dict[str, str], float, int]]:
        """Tags, value and time of each point that has the field. A line that was cut off has no time and is left."""
        try:
            older = sorted(self.path.parent.glob(f"{self.path.name}.[0-9]"), reverse=True)
            for path in (*older, self.path):
                with path.open(encoding="utf-8") as lines:
                    for line in lines:
                        if line.startswith(f"{measurement},") and (found := _LINE.fullmatch(line)) is not None:
                            value = re.search(rf"(?:^|,){field}=([-+.0-9e]+)i?(?:,|$)", found["fields"])
                            if value is not None:
                                yield _tags(found["tags"]), float(value[1]), int(found["time"])
        except (OSError, UnicodeDecodeError) as error:
            raise NoTelemetry(f"{self.path}: {getattr(error, 'strerror', None) or error}") from None


_AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "mean": fmean,
    "max": max,
}
_LINE = re.compile(r"(?P<series>[^,]+),(?P<tags>(?:\\.|[^\\ ])+) (?P<fields>.+) (?P<time>[0-9]+)\n")
_TAG = re.compile(r"((?:\\.|[^\\=,])+)=((?:\\.|[^\\,])+)")


def _tags(text: str) -> dict[str, str]:
    return {name: re.sub(r"\\(.)", r"\1", value) for name, value in _TAG.findall(text)}


def window(run: Run) -> tuple[int, int]:
    """From when to when it went, in nanoseconds since the epoch."""
    seconds = max((turn.ended_at for turn in run.turns), default=0.0)
    return run.header.started_at, run.header.started_at + int(seconds * 1e9)


def _width(first: int, last: int) -> int:
    """Of the groups that points are taken together in, in nanoseconds: whole seconds, as points come by the second."""
    return max(1, round((last - first) / 1e9 / NUM_POINTS)) * 10**9
