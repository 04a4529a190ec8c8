"""How long models take to load on this board: as it was measured, and guessed by their bytes before that."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from workers.boards.loading import MEASURE, PHASES, READ, READY, START, WEIGHTS
from workers.kept import MAX_KEPT, keep

START_SECONDS = 3.0
"""Of a process without a model: Python, its libraries, the measurements of its first steps."""
BYTES_PER_SECOND = 80e6
"""What an SD card of a Raspberry Pi reads, until a load was seen."""
MIN_RATED_BYTES = 64e6
"""A load of fewer bytes says nothing of how fast they are read: it is START_SECONDS, more or less."""
START_SHARES = {START: 0.4, MEASURE: 0.4, READY: 0.2}
"""Of START_SECONDS."""
READ_SHARE = 0.6
"""Of the seconds that bytes take: for verifying them; the rest is llama.cpp's."""
_SMOOTHING = 0.5

log = logging.getLogger(__name__)


class Loaded(Struct, frozen=True):
    """One model's loads."""

    file_bytes: int
    seconds: float
    """From the start of its process to its first turn, weighted towards the latest."""
    phases: dict[str, float] = {}
    """Likewise, each of its phases."""


class LoadTimes:
    """Kept in a file, which boards of one data directory may share: what one of them has just written wins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Loaded] = {}
        self._read()
        self._rate = self._bytes_per_second()
        """Of what has not been loaded here yet."""

    def seconds(self, digest: str, file_bytes: int) -> float:
        """What the model of that digest will take."""
        if (known := self._known.get(digest)) is not None:
            return known.seconds
        return START_SECONDS + file_bytes / self._rate

    def phases(self, digest: str, file_bytes: int) -> dict[str, float]:
        """What the phases of its load will take."""
        known = self._known.get(digest)
        if known is not None and known.phases:
            return known.phases
        seconds = self.seconds(digest, file_bytes)
        start = min(seconds, START_SECONDS)
        of_bytes = {READ: READ_SHARE * (seconds - start), WEIGHTS: (1 - READ_SHARE) * (seconds - start)}
        return of_bytes | {phase: share * start for phase, share in START_SHARES.items()}

    def note(self, digest: str, file_bytes: int, seconds: float, took: Mapping[str, float] | None = None) -> None:
        """A load took so long, and its phases what they took; what was measured then is not measured the next
        time. Writes the file, if it can be written."""
        self._read()
        took = dict(took or {})
        seconds = max(0.0, seconds - took.pop(MEASURE, 0.0))
        before = self._known.pop(digest, None)
        known = {} if before is None else before.phases
        smoothed = seconds if before is None else _between(before.seconds, seconds)
        phases = {phase: _between(known.get(phase, one), one) for phase, one in took.items() if phase in PHASES}
        self._known[digest] = Loaded(file_bytes, smoothed, phases)
        while len(self._known) > MAX_KEPT:
            del self._known[next(iter(self._known))]
        self._rate = self._bytes_per_second()
        keep(self._path, self._known)

    def _read(self) -> None:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self._known |= msgspec.json.decode(self._path.read_bytes(), type=dict[str, Loaded])

    def _bytes_per_second(self) -> float:
        """By the largest model that was loaded here, where it was large enough to tell."""
        largest = max(self._known.values(), key=lambda one: one.file_bytes, default=None)
        if largest is None or largest.seconds <= START_SECONDS or largest.file_bytes < MIN_RATED_BYTES:
            return BYTES_PER_SECOND
        return largest.file_bytes / (largest.seconds - START_SECONDS)


def _between(before: float, latest: float) -> float:
    return before + _SMOOTHING * (latest - before)
