"""The workers that a gateway has seen lately, and which of them have left."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from broker.discovery import DRAINING, WorkerInfo

STALE_SECONDS = 10.0
"""A worker that has not answered for so long is not there; a busy board's answers come late."""


class Seen:
    """By their names. One that says that it leaves is not chosen any more from that moment on."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[WorkerInfo, float]] = {}
        self._left: dict[str, float] = {}

    @property
    def workers(self) -> list[WorkerInfo]:
        return [one for one, _ in self._found.values()]

    def get(self, name: str) -> WorkerInfo | None:
        found = self._found.get(name)
        return found[0] if found is not None else None

    def note(self, answers: Iterable[WorkerInfo], asked_at: float) -> None:
        """What came of asking at that instant of the monotonic clock; who has not answered for long is forgotten."""
        now = time.monotonic()
        self._left = {name: at for name, at in self._left.items() if now - at < STALE_SECONDS}
        for one in answers:
            # An answer from before a worker left must not bring it back.
            if not one.is_serving or self._left.get(one.worker, asked_at) <= asked_at:
                self._found[one.worker] = (one, now)
        self._found = {name: found for name, found in self._found.items() if now - found[1] < STALE_SECONDS}

    def leave(self, name: str) -> None:
        """That worker takes no turns any more; it is known as long as it finishes those that it has."""
        now = time.monotonic()
        self._left[name] = now
        if found := self._found.get(name):
            load = msgspec.structs.replace(found[0].load, state=DRAINING)
            self._found[name] = (msgspec.structs.replace(found[0], load=load), found[1])
