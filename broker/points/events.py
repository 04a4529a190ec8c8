"""What happened, by whoever saw it: for annotations in Grafana."""

from __future__ import annotations

from broker.messages import Point
from broker.points.measurement import NONE, Measurement, text

EVENT = Measurement(
    "event",
    "What happened: for annotations",
    ("node", "kind", "worker", "run"),
    {
        "text": text(
            "worker started, worker stopped, worker lost, model loaded, model unloaded, model failed, "
            "throttling began, run began, run ended; and about what"
        )
    },
)


def event(time: int, kind: str, text: str, *, node: str = NONE, worker: str = NONE, run: str = NONE) -> Point | None:
    """For an annotation, at `time`, nanoseconds since the epoch."""
    return EVENT.point(time, {"node": node, "kind": kind, "worker": worker, "run": run}, {"text": text})
