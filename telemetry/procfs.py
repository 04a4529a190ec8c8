"""The kernel's counters under /proc, line by line: a line of another shape costs what it tells and nothing else.

psutil gives up on a whole file for one odd line, calls cores by their place in it, and makes zeros of what is absent.
Formats: proc(5), the kernel's Documentation/admin-guide/iostats.rst and filesystems/proc.rst.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from msgspec import Struct

from telemetry.files import as_number, text

SECTOR_BYTES = 512
"""Of /proc/diskstats, whatever the disk's own sectors have."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
"""16 KiB on a Raspberry Pi 5, and counters of pages are in these."""


class Ticks(Struct, frozen=True):
    """What a core's time went into since boot, in ticks; guests' time is in user and nice already."""

    user: int
    nice: int
    system: int
    idle: int
    iowait: int = 0
    irq: int = 0
    softirq: int = 0
    steal: int = 0

    @property
    def total(self) -> int:
        """All of them: what a share is a share of."""
        return sum(getattr(self, name) for name in self.__struct_fields__)

    def since(self, before: Ticks) -> Ticks:
        """The difference; nothing where a counter went back."""
        pairs = ((getattr(self, name), getattr(before, name)) for name in self.__struct_fields__)
        return Ticks(*(max(0, later - earlier) for later, earlier in pairs))


def cpu_ticks(proc: Path) -> dict[str, Ticks]:
    """By the core's number, and of `all`. A core that is offline is not there."""
    found = {}
    for line in (text(proc / "stat") or "").splitlines():
        name, *values = line.split() or [""]
        core = "all" if name == "cpu" else name.removeprefix("cpu")
        numbers = _numbers(values[: len(Ticks.__struct_fields__)])
        if name.startswith("cpu") and (core == "all" or core.isdecimal()) and numbers and len(numbers) >= 4:
            found[core] = Ticks(*numbers)
    return found


def table(path: Path) -> dict[str, int]:
    """Of /proc/meminfo in bytes, of /proc/vmstat as they stand."""
    found = {}
    for line in (text(path) or "").splitlines():
        name, _, rest = line.replace(":", " ").partition(" ")
        value, *unit = rest.split() or [""]
        if (number := as_number(value)) is not None and unit in ([], ["kB"]):
            found[name] = number * 1024 if unit else number
    return found


class Disk(Struct, frozen=True):
    """What a block device did since it was there."""

    read_bytes: int
    written_bytes: int
    busy_seconds: float


def disks(proc: Path) -> dict[str, Disk]:
    """By the name in /sys/block, which has `!` for `/`."""
    found = {}
    for line in (text(proc / "diskstats") or "").splitlines():
        parts = line.split()
        # Later kernels append fields; an ancient one's partitions have less.
        numbers = _numbers(parts[3:14])
        if len(parts) >= 14 and numbers:
            name = parts[2].replace("/", "!")
            found[name] = Disk(numbers[2] * SECTOR_BYTES, numbers[6] * SECTOR_BYTES, numbers[9] / 1000)
    return found


class Network(Struct, frozen=True):
    """What an interface did since it was there."""

    received_bytes: int
    sent_bytes: int
    num_errors: int
    num_dropped: int


def networks(proc: Path) -> dict[str, Network]:
    """By the interface's name."""
    found = {}
    for line in (text(proc / "net/dev") or "").splitlines()[2:]:
        # An alias has a colon in its name.
        name, _, rest = line.rpartition(":")
        numbers = _numbers(rest.split())
        if name.strip() and numbers and len(numbers) >= 12:
            found[name.strip()] = Network(numbers[0], numbers[8], numbers[2] + numbers[10], numbers[3] + numbers[11])
    return found


def _numbers(parts: list[str]) -> list[int] | None:
    """None where one of them is none, or below zero."""
    found = [number for part in parts if (number := as_number(part)) is not None and number >= 0]
    return found if len(found) == len(parts) else None


def floats(path: Path, count: int) -> list[float | None]:
    """The first numbers of a file, None for each that is none."""
    parts: list[str] = (text(path) or "").split()[:count]
    found: list[float | None] = []
    for part in parts:
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        found.append(value if math.isfinite(value) else None)
    return [*found, *[None] * (count - len(found))]
