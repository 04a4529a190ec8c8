"""How far a model's load is: the phases that it has, and what part of it is done by what they took before."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from broker.messages.boards import LOADING
from workers.boards.line import FromWorker

START, READ, WEIGHTS, MEASURE, READY = "start", "read", "llama.cpp", "measure", "ready"
PHASES = (START, READ, WEIGHTS, MEASURE, READY)
"""A process starts; its file is verified; llama.cpp loads it; what is not known of it is measured; it begins to
serve."""
ALMOST = 0.95
"""A phase that tells nothing of itself is never further than that by the clock alone."""
EARLY = 0.05
"""Before so much of a phase is done, nobody knows its pace."""


log = logging.getLogger(__name__)


class Loading:
    """A worker's own side. What it does is told of any thread; `told` is how far it is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, age: float | None = None) -> None:
        """`age`: how long the process has been there."""
        self._clock = clock
        self._phase = START
        self._began_at = clock() - (process_seconds() if age is None else age)
        self._done = 0.0
        self._read_bytes = 0
        self._took: dict[str, float] = {}
        self._is_over = False

    def begin_anew(self) -> None:
        """What was before is not counted: nobody waited for it."""
        self._phase, self._began_at, self._took = START, self._clock(), {}

    def begin(self, phase: str) -> None:
        """The phase before it is over. A phase may have several parts."""
        now = self._clock()
        self._took = self._took | {self._phase: self._took.get(self._phase, 0.0) + now - self._began_at}
        self._phase, self._began_at, self._done = phase, now, 0.0

    def read(self, num_bytes: int) -> None:
        """So much more of the model's files was read, or was known."""
        self._read_bytes += num_bytes

    def at(self, share: float) -> None:
        """Of this phase so much is done, 0 to 1."""
        self._done = round(min(1.0, max(self._done, share)), 2)

    @property
    def took(self) -> Mapping[str, float]:
        """Seconds, of phases that are over."""
        return self._took

    @property
    def told(self) -> FromWorker:
        """For the board."""
        return FromWorker(read_bytes=self._read_bytes, phase=self._phase, done=self._done, took=self._took)

    def served(self, told: FromWorker) -> FromWorker:
        """What a worker that is loaded says, with what its load took."""
        if told.state != LOADING and not self._is_over:
            self._is_over = True
            self.begin(START)
            log.info("loaded in %s", self)
        return replace(told, took=self._took)

    def __str__(self) -> str:
        """For a log: `2.1 s: start 0.3, read 0.2, …`."""
        each = ", ".join(f"{phase} {self._took[phase]:.2f}" for phase in PHASES if phase in self._took)
        return f"{sum(self._took.values()):.1f} s: {each}"


def process_seconds(stat: Path = Path("/proc/self/stat")) -> float:
    """How long this process has been there; 0 where the kernel does not tell."""
    try:
        ticks = int(stat.read_text(errors="replace").rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0


def share_done(expected: Mapping[str, float], told: FromWorker, seconds: float, file_bytes: int = 0) -> float | None:
    """How much of a load is done, 0 to 1, where its phases are expected to take so many seconds, and its worker has
    been in this one for `seconds`; None where nothing is expected. What a phase tells of itself counts more than what
    it took before. Pure."""
    if told.phase not in PHASES or sum(expected.values()) <= 0:
        return None
    done = told.done
    if told.phase == READ and file_bytes:
        done = min(1.0, told.read_bytes / file_bytes)
    before, after = PHASES[: PHASES.index(told.phase)], PHASES[PHASES.index(told.phase) + 1 :]
    this = expected.get(told.phase, 0.0)
    if done > EARLY:
        this = max(this * (1 - done), seconds * (1 - done) / done) + seconds
        done = seconds / this if this > 0 else done
    elif this > 0:
        done = min(ALMOST, max(done, seconds / this))
    over = sum(told.took.get(phase, expected.get(phase, 0.0)) for phase in before)
    total = over + this + sum(expected.get(phase, 0.0) for phase in after)
    return min(1.0, (over + this * done) / total) if total > 0 else None
