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
        "Turns without a worker",
        Query(
            points.QUEUE,
            # A model that no board has loaded has no worker either, and no turns. A queue holds no more than 10,000.
            'last("num_pending") / (last("num_waiting_pulls") + last("num_in_work") + 0.000001)',
            ("model",),
            where="\"priority\" = 'interactive'",
        ),
        100_000.0,
        "5m",
        "Turns wait for {{ $labels.model }}, and nobody has asked for one or worked on one for five minutes.",
    ),
    Alert(
        "turnpike-broken-model",
        "A model cannot be loaded",
        Query(points.BOARD, 'last("num_broken")', ("node",)),
        0.0,
        "5m",
        "The board {{ $labels.node }} has a model that it cannot load: `turnpike top` says which, and why.",
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
    ("Models come and go", "model (loaded|unloaded)", "purple"),
    ("Models that cannot be loaded", "model failed", "red"),
    ("Throttling", "throttling began", "orange"),
    ("Runs", "run .*", "blue"),
)
"""Title, regular expression of the kinds of events, colour."""
