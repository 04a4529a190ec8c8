"""Points of time series, how a node is, and the runs of load generators."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from broker.messages.fields import Token, Word

FieldValue = float | int | bool | str


class Point(Struct, frozen=True, array_like=True):
    """One point of a time series. `broker.points` says which measurements, tags and fields there are."""

    measurement: Annotated[str, Meta(min_length=1, max_length=64)]
    tags: Annotated[dict[str, Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=16)]
    fields: Annotated[dict[str, FieldValue], Meta(min_length=1, max_length=64)]
    time: int
    """Nanoseconds since the epoch."""


MAX_BATCH_POINTS = 5000


class Points(Struct, frozen=True):
    """What a worker or sidecar measured within about a second."""

    points: Annotated[tuple[Point, ...], Meta(max_length=MAX_BATCH_POINTS)]


class NodeState(Struct, frozen=True):
    """How a node is just now, from its sidecar to its workers. What its board does not tell is None."""

    watts: Annotated[float, Meta(ge=0, le=100_000)] | None = None
    is_estimated: bool = False
    celsius: Annotated[float, Meta(ge=-273.15, le=1000)] | None = None
    """The hottest sensor's."""
    is_throttled: bool | None = None


class RunEvent(Struct, frozen=True):
    """A load run began or ended: for annotations in Grafana."""

    run: Token
    kind: Word
    """`run began`, `run ended`, or a later release's."""
    at: int
    """Nanoseconds since the epoch, by the producer's clock."""
    text: Annotated[str, Meta(max_length=2000)] = ""
