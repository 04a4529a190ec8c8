"""What Grafana watches for, and the events that it marks in every picture."""

from __future__ import annotations

from dataclasses import dataclass

from broker import points
from telemetry.dashboards.parts import Query


@dataclass(frozen=True)
class Alert:
    """Fires for each series whose last value is `above` a bound for `lasting`."""

    uid: str
    title: str
    query: Query
    above: float
    lasting: str
    summary: str
    is_below: bool = False
    on_no_data: str = "OK"


ALERTS = (
    Alert(
        "turnpike-queue-age",
        "Turns wait too long",
        Query(points.QUEUE, 'last("oldest_seconds")', ("model",)),
        300.0,
        "2m",
        "The oldest turn of {{ $labels.model }} has waited for more than five minutes.",
    ),
    Alert(
        "turnpike-throttling",
        "A board is held back",
        Query(points.THROTTLING, 'count("bits")', ("node",), where='"throttled" = true'),
        0.0,
        "1m",
        "{{ $labels.node }} is throttled: too hot, or too weak a supply. Its figures are not those of the board.",
    ),
    Alert(
        "turnpike-no-worker",
        "A model without a worker",
        Query(points.QUEUE, 'last("num_waiting_pulls") + last("num_in_work")', ("model",)),
        1.0,
        "2m",
        "Nobody asks for the turns of {{ $labels.model }}, and nobody works on one.",
        is_below=True,
    ),
    Alert(
        "turnpike-store",
        "JetStream's disk fills up",
        Query(points.BROKER, 'last("store_bytes") / last("max_store_bytes")', ("server",)),
        0.8,
        "5m",
        "The broker's store holds more than four fifths of what it may.",
    ),
    Alert(
        "turnpike-dead-letters",
        "Turns were given up on",
        Query(points.STREAM, 'last("num_messages")', ("stream",), where="\"stream\" = 'DEAD'"),
        0.0,
        "0s",
        "There are dead letters: `turnpike dead list`.",
    ),
    Alert(
        "turnpike-points-lost",
        "Telemetry loses points",
        Query(points.SIDECAR, 'last("num_dropped") + last("num_expired")', ("node",)),
        0.0,
        "5m",
        "Points of {{ $labels.node }} were dropped or expired before they were written.",
    ),
)

ANNOTATIONS = (
    ("Workers start and stop", "worker s.*", "green"),
    ("Workers lost", "worker lost", "red"),
    ("Throttling", "throttling began", "orange"),
    ("Runs", "run .*", "blue"),
)
"""Title, regular expression of the kinds of events, colour."""
