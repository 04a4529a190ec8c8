"""How long models take to load on this board: as it was measured, and guessed by their bytes before that."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import msgspec
from msgspec import Struct

from broker.accounts import write_private

START_SECONDS = 3.0
"""Of a process without a model: Python, its libraries, the measurements of its first steps."""
BYTES_PER_SECOND = 80e6
"""What an SD card of a Raspberry Pi reads, until a load was seen."""
MAX_KEPT = 256
_SMOOTHING = 0.5

log = logging.getLogger(__name__)


class Loaded(Struct, frozen=True):
    """One model's loads."""

    file_bytes: int
    seconds: float
    """From the start of its process to its first turn, weighted towards the latest."""


class LoadTimes:
    """Kept in a file, which boards of one data directory may share: what one of them has just written wins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Loaded] = {}
        self._read()

    def seconds(self, digest: str, file_bytes: int) -> float:
        """What the model of that digest will take."""
        if (known := self._known.get(digest)) is not None:
            return known.seconds
        return START_SECONDS + file_bytes / self._bytes_per_second()

    def note(self, digest: str, file_bytes: int, seconds: float) -> None:
        """A load took so long. Writes the file, if it can be written."""
        self._read()
        before = self._known.pop(digest, None)
        smoothed = seconds if before is None else before.seconds + _SMOOTHING * (seconds - before.seconds)
        self._known[digest] = Loaded(file_bytes, smoothed)
        while len(self._known) > MAX_KEPT:
            del self._known[next(iter(self._known))]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(self._path, msgspec.json.encode(self._known))
        except OSError as error:
            log.info("not kept for the next start file=%s error=%s", self._path, error)

    def _read(self) -> None:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self._known |= msgspec.json.decode(self._path.read_bytes(), type=dict[str, Loaded])

    def _bytes_per_second(self) -> float:
        """By the largest model that was loaded here."""
        largest = max(self._known.values(), key=lambda one: one.file_bytes, default=None)
        if largest is None or largest.seconds <= START_SECONDS or not largest.file_bytes:
            return BYTES_PER_SECOND
        return largest.file_bytes / (largest.seconds - START_SECONDS)
