"""What dashboards are made of: queries, panels, pages, and the colours of their bounds.

Every query is InfluxQL, which InfluxDB 1, 2 and 3 Core all answer, and every name in it is checked against
`broker.points`, so that a field that was renamed cannot leave an empty panel behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from broker.points import Measurement

_QUOTED = re.compile(r'"(\w+)"')


@dataclass(frozen=True)
class Query:
    """One line of a panel. `what` is the selection; `by` are the tags that make a series each."""

    measurement: Measurement
    what: str
    by: tuple[str, ...] = ()
    alias: str = ""
    where: str = ""
    is_total: bool = False
    """The sum over all series of each one's last value, or what `what` says of it."""

    def text(self, filters: str) -> str:
        """The InfluxQL; raises LookupError for a name that the measurement does not have."""
        conditions = " AND ".join(part for part in ("$timeFilter", filters, self.where) if part)
        name = self.measurement.name
        if self.is_total:
            inner = f'SELECT {self.what} AS "value" FROM "{name}" WHERE {conditions} GROUP BY {_names(self.by)}'
            text = f'SELECT sum("value") FROM ({inner})'
        else:
            by = f", {_names(self.by)}" if self.by else ""
            text = f'SELECT {self.what} FROM "{name}" WHERE {conditions} GROUP BY time($__interval){by} fill(none)'
        self._check(f"{self.what} {conditions} {_names(self.by)}")
        return text

    def _check(self, text: str) -> None:
        known = {*self.measurement.tags, *self.measurement.fields}
        for name in _QUOTED.findall(text):
            if name not in known:
                raise LookupError(f"{self.measurement.name} has no {name!r}: {text}")


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


@dataclass(frozen=True)
class Panel:
    """A panel: time series unless it is a `stat` or a `table`."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""
    kind: str = "timeseries"
    width: int = 8
    thresholds: tuple[tuple[float, str], ...] = ()
    """From which value on which colour."""
    maximum: float | None = None
    link: str = ""
    """The dashboard that a click leads to."""
    is_stacked: bool = False
    table_query: str = ""


def stat(
    title: str,
    unit: str,
    query: Query,
    description: str = "",
    *,
    thresholds: tuple[tuple[float, str], ...] = (),
    link: str = "",
) -> Panel:
    """A single number, six of them in a row."""
    return Panel(title, unit, (query,), description, kind="stat", width=4, thresholds=thresholds, link=link)


@dataclass(frozen=True)
class Page:
    """A dashboard; `variables` are the tags that it is filtered by, with the measurement that knows their values."""

    uid: str
    title: str
    description: str
    variables: tuple[tuple[str, Measurement], ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def per_second(field: str) -> str:
    """A selection: the rate of a field that only grows."""
    return f'non_negative_derivative(mean("{field}"), 1s)'


HOT = ((0.0, "green"), (75.0, "yellow"), (82.0, "red"))
"""A Pi 5 slows down from 80 °C on, and hard from 85."""
BUSY = ((0.0, "green"), (0.8, "yellow"), (0.95, "red"))
QUEUED = ((0.0, "green"), (10.0, "yellow"), (100.0, "red"))
ANY = ((0.0, "green"), (1.0, "red"))
