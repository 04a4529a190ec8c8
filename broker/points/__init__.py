"""Every measurement with its tags and fields: what workers and sidecars send and what InfluxDB holds.

A measurement's tags are always all given, and a field always has one type, so that every InfluxDB takes it, 3 Core
included. A field that was not to be had is left out: absent is not zero. Each module holds what one kind of process
makes, `MEASUREMENTS` is all of it, and docs/telemetry.md is made from that (`python -m broker.points`).
"""

from __future__ import annotations

from broker.points.board import BOARD, BOARD_MODEL, MODEL_LOAD, MODEL_UNLOAD
from broker.points.events import EVENT, event
from broker.points.gateway import ROUTE
from broker.points.measurement import NONE, Field, Measurement, UnknownField
from broker.points.node import (
    CGROUP,
    CPU,
    DISK,
    FAN,
    FILESYSTEM,
    MEMORY,
    NETWORK,
    POWER,
    PRESSURE,
    PROCESS,
    REJECTED,
    SIDECAR,
    SYSTEM,
    TEMPERATURE,
    THROTTLING,
    WEAR,
)
from broker.points.server import BROKER, QUEUE, STREAM, WORKERS
from broker.points.worker import ENGINE, TURN

MEASUREMENTS: tuple[Measurement, ...] = (
    CPU,
    SYSTEM,
    MEMORY,
    DISK,
    FILESYSTEM,
    NETWORK,
    PRESSURE,
    TEMPERATURE,
    FAN,
    THROTTLING,
    POWER,
    WEAR,
    PROCESS,
    CGROUP,
    SIDECAR,
    REJECTED,
    QUEUE,
    WORKERS,
    STREAM,
    BROKER,
    TURN,
    ENGINE,
    BOARD,
    BOARD_MODEL,
    MODEL_LOAD,
    MODEL_UNLOAD,
    ROUTE,
    EVENT,
)

__all__ = [
    "BOARD",
    "BOARD_MODEL",
    "BROKER",
    "CGROUP",
    "CPU",
    "DISK",
    "ENGINE",
    "EVENT",
    "FAN",
    "FILESYSTEM",
    "MEASUREMENTS",
    "MEMORY",
    "MODEL_LOAD",
    "MODEL_UNLOAD",
    "NETWORK",
    "NONE",
    "POWER",
    "PRESSURE",
    "PROCESS",
    "QUEUE",
    "REJECTED",
    "ROUTE",
    "SIDECAR",
    "STREAM",
    "SYSTEM",
    "TEMPERATURE",
    "THROTTLING",
    "TURN",
    "WEAR",
    "WORKERS",
    "Field",
    "Measurement",
    "UnknownField",
    "event",
]
