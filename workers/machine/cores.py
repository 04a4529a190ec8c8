"""Which cores this process may use, and whether somebody else uses them. Reads /proc and the cgroup.

What is measured on them is kept for the next start only where nobody else did: else it would hold for good.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from workers.kept import keep

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
BUSY_CORES = 0.15
"""What others may take of the cores while something is measured there; the kernel's clock ticks 100 times a second."""
LOOK_SECONDS = 0.2
"""How long it is looked whether others have the cores."""
BESIDE = " beside others"
_IDLE = (3, 4)
"""Of the columns of a processor's line in /proc/stat, those in which it waits."""
_NUM_COLUMNS = 8
"""Without the guests', which are in the users' already."""

log = logging.getLogger(__name__)


def num_cores(proc: Path = PROC, cgroup: Path = CGROUP, allowed: int | None = None) -> int:
    """How many cores' worth this process may compute at once: those that it may run on, or the quota of its cgroup and
    of those around it, rounded up, if that is less."""
    allowed = len(os.sched_getaffinity(0)) if allowed is None else allowed
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas(proc, cgroup))]))


def _quotas(proc: Path, cgroup: Path) -> Iterator[float]:
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = (proc / "self" / "cgroup").read_text(errors="replace").splitlines()
    for line in lines:
        controllers, _, name = line.partition(":")[2].partition(":")
        if not controllers:
            folders = [cgroup]
        elif "cpu" in controllers.split(","):
            folders = [cgroup / controllers, cgroup / "cpu"]
        else:
            continue
        for folder in folders:
            # Inside a container the name may be that of the machine: what does not exist is passed over.
            inner = folder.joinpath(*Path(name).parts[1:])
            for group in (inner, *(one for one in inner.parents if one.is_relative_to(folder))):
                quota = _quota(group)
                if quota is not None:
                    yield quota


def _quota(group: Path) -> float | None:
    """Cores; None where the group has no limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota_us = int((group / "cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / int((group / "cpu.cfs_period_us").read_text())
    return None


@dataclass(frozen=True)
class Usage:
    """Of the cores that this process may run on, since they were started. Seconds."""

    at: float
    busy: float | None
    """By anybody; None where the machine does not tell."""
    own: float

    @classmethod
    def now(cls, proc: Path = PROC) -> Usage:
        """As the kernel counts it up to now."""
        own = os.times()
        return cls(time.perf_counter(), _busy(proc, os.sched_getaffinity(0)), own.user + own.system)

    def others_since(self, before: Usage) -> float | None:
        """How many cores somebody else has used meanwhile."""
        seconds = self.at - before.at
        if self.busy is None or before.busy is None or seconds <= 0:
            return None
        return max(0.0, (self.busy - before.busy - (self.own - before.own)) / seconds)


def _busy(proc: Path, cpus: set[int]) -> float | None:
    found = None
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "stat").read_text().splitlines():
            name, _, rest = line.partition(" ")
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
                columns = [int(column) for column in rest.split()[:_NUM_COLUMNS]]
                ticks = sum(ticks for index, ticks in enumerate(columns) if index not in _IDLE)
                found = (found or 0.0) + ticks / os.sysconf("SC_CLK_TCK")
    return found


@dataclass(frozen=True)
class Measured[T]:
    """What was measured, and words for when."""

    found: T
    when: str
    is_alone: bool = True
    """Whether nobody else had the cores meanwhile."""


def others_now() -> float | None:
    """How many cores others have just now; None where the machine does not tell. Blocks for LOOK_SECONDS."""
    before = Usage.now()
    time.sleep(LOOK_SECONDS)
    return Usage.now().others_since(before)


def measured_alone[T](
    measure: Callable[[], T],
    kind: type[T],
    path: Path,
    key: str,
    usage: Callable[[], Usage] = Usage.now,
    instead: T | None = None,
    *,
    others_at_first: Callable[[], float | None] = others_now,
    is_urgent: bool = False,
) -> Measured[T]:
    """What `measure` finds now, or found at an earlier start, kept as a `kind` under `key` in the file `path`. Only
    what was found while nobody else had the cores is kept, but for who `is_urgent`, because somebody waits: to them
    what was found beside others is good enough. With `instead` it is taken where `others_at_first` have the cores, and
    nothing is measured."""
    if (known := _known(path, key, kind)) is not None:
        return Measured(known, "at an earlier start")
    if is_urgent and (known := _known(path, key + BESIDE, kind)) is not None:
        return Measured(known, "at an earlier start, beside others", False)
    if instead is not None:
        others = others_at_first()
        if others is not None and others > BUSY_CORES:
            return Measured(instead, f"at no start yet, as others have {others:.1f} cores now", False)
    before = usage()
    found = measure()
    others = usage().others_since(before)
    if others is not None and others > BUSY_CORES:
        if is_urgent:
            _keep(path, key + BESIDE, found)
        return Measured(found, f"now, beside others on {others:.1f} cores: measured again at the next start", False)
    _keep(path, key, found)
    return Measured(found, "now")


def _known[T](path: Path, key: str, kind: type[T]) -> T | None:
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(_kept(path).get(key), kind, strict=False) or None
    return None


def _keep(path: Path, key: str, found: object) -> None:
    known = _kept(path)
    known.pop(key, None)
    keep(path, known | {key: found})


def _kept(path: Path) -> dict[str, Any]:
    """What was measured at earlier starts, also by other releases, in whose words; nothing where it cannot be read."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return {key: one for key, one in found.items() if isinstance(one, dict) and one}
    return {}
