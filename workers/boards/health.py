"""What a board tells of itself at its health port: how each model's worker is, one that is stuck among them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from broker.health import Report
from workers.boards.models import ModelHere

PATH = "/healthz"


class Watched(Protocol):
    """`Child`."""

    @property
    def pid(self) -> int:
        """Of its process."""
        ...

    @property
    def silent_seconds(self) -> float:
        """Since it said something."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why it is being ended."""
        ...


class ModelHealth(Struct, frozen=True, omit_defaults=True):
    """One model, and its worker where it has one."""

    model: str
    state: str
    """As others see it (`broker.messages.boards`)."""
    since_seconds: float
    """For so long."""
    pid: int | None = None
    silent_seconds: float | None = None
    """Since its worker said something."""
    num_in_hand: int = 0
    """Turns."""
    trouble: str | None = None
    """Why its worker is being ended, and started anew."""
    num_failures: int = 0
    """Loads and deaths since it last served for a while."""
    reason: str = ""
    """Of the last of them, until it is tried again."""
    retry_seconds: float | None = None
    """Until then."""


class BoardHealth(Struct, frozen=True):
    """A board, and its models by their names."""

    board: str
    trouble: str | None
    """What is wrong with the board itself."""
    models: tuple[ModelHealth, ...]


def report(
    board: str,
    trouble: str | None,
    models: Iterable[ModelHere],
    workers: Mapping[str, Watched],
    now: float | None = None,
) -> Report:
    """In JSON, a BoardHealth. Well is a board that comes round and has no worker that is stuck; a model that cannot be
    loaded is told, and no fault of its board's. `now` is in seconds since the epoch."""
    now = time.time() if now is None else now
    found = tuple(_health(one, workers.get(one.model), now) for one in sorted(models, key=lambda one: one.model))
    is_well = trouble is None and all(one.trouble is None for one in found)
    return Report(is_well, msgspec.json.encode(BoardHealth(board, trouble, found)) + b"\n")


def _health(here: ModelHere, worker: Watched | None, now: float) -> ModelHealth:
    return ModelHealth(
        here.model,
        here.state,
        max(0.0, round(now - here.since, 1)),
        pid=None if worker is None else worker.pid,
        silent_seconds=None if worker is None else round(worker.silent_seconds, 1),
        num_in_hand=here.latest.num_in_hand,
        trouble=None if worker is None else worker.trouble,
        num_failures=here.num_failures,
        reason=here.reason,
        retry_seconds=round(here.retry_at - now, 1) if here.retry_at > now else None,
    )
