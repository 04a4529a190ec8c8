"""What the nodes did during a run: from InfluxDB, by InfluxQL, which all its versions answer."""

from __future__ import annotations

import base64
import json
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from broker.errors import TurnpikeError
from producers.records import Run

TIMEOUT_SECONDS = 30.0
NUM_POINTS = 200
"""Of a series, at most about so many."""


class NoTelemetry(TurnpikeError):
    """The database cannot be asked; says why."""


@dataclass(frozen=True)
class Series:
    """A line of a picture: seconds since the run's start, and values."""

    name: str
    times: list[float]
    values: list[float]


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    selection: str
    by: str
    factor: float = 1.0


PANELS = (
    Panel("CPU of the nodes", "%", 'SELECT mean("busy_ratio") FROM "cpu" WHERE "cpu" = \'all\' AND ', "node", 100.0),
    Panel("Memory of the nodes", "GiB", 'SELECT mean("used_bytes") FROM "memory" WHERE ', "node", 2**-30),
    Panel("Temperature", "°C", 'SELECT max("celsius") FROM "temperature" WHERE ', "node"),
    Panel("Power", "W", 'SELECT mean("watts") FROM "power" WHERE ', "node"),
    Panel("Turns queued", "turns", 'SELECT max("num_pending") FROM "queue" WHERE ', "model"),
    Panel(
        "Tokens of the engines", "tokens/s", 'SELECT mean("decode_tokens_per_second") FROM "engine" WHERE ', "worker"
    ),
)


@dataclass(frozen=True)
class Database:
    """http://USER:PASSWORD@HOST:PORT/DATABASE, or with a token."""

    url: str
    token: str | None = None

    def ask(self, statement: str) -> list[dict[str, Any]]:
        """The series of a statement's answer; raises NoTelemetry."""
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https"):
            raise NoTelemetry("--influx-url: a report reads telemetry from InfluxDB, http://HOST:8086/DATABASE")
        query = urllib.parse.urlencode({"db": parts.path.strip("/") or "turnpike", "q": statement, "epoch": "ns"})
        request = urllib.request.Request(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/query?{query}")
        if self.token is not None:
            request.add_header("Authorization", f"Token {self.token}")
        elif parts.username:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            request.add_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                result = json.load(answer)["results"][0]
        except (OSError, ValueError, LookupError) as error:
            raise NoTelemetry(f"InfluxDB at {parts.hostname}: {error}") from None
        if "error" in result:
            raise NoTelemetry(f"InfluxDB at {parts.hostname}: {result['error']}")
        found: list[dict[str, Any]] = result.get("series", [])
        return found


def window(run: Run) -> tuple[int, int]:
    """From when to when it went, in nanoseconds since the epoch."""
    seconds = max((turn.ended_at for turn in run.turns), default=0.0)
    return run.header.started_at, run.header.started_at + int(seconds * 1e9)


def series(database: Database, run: Run, panel: Panel) -> list[Series]:
    """What a panel shows of a run, a line a node, model or worker; none of what no board told."""
    first, last = window(run)
    width = max(1, round((last - first) / 1e9 / NUM_POINTS))
    statement = f'{panel.selection}time >= {first} AND time <= {last} GROUP BY time({width}s), "{panel.by}" fill(none)'
    found = []
    for one in database.ask(statement):
        rows = [row for row in one.get("values", ()) if row[1] is not None]
        # A group's time is its beginning, which for the first one lies before the run's.
        times = [max(0.0, (row[0] - first) / 1e9) for row in rows]
        found.append(Series(str(one.get("tags", {}).get(panel.by, "")), times, [row[1] * panel.factor for row in rows]))
    return found


def joules(database: Database, run: Run) -> float | None:
    """The energy of a run's turns; None where no board told its watts."""
    name = run.name.replace("'", "")
    found = database.ask(f'SELECT sum("joules") FROM "turn" WHERE "run" = \'{name}\'')
    return float(found[0]["values"][0][1]) if found and found[0]["values"][0][1] is not None else None
