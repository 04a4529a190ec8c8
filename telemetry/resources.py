"""What a node and its workers use of CPU, memory, disks and network: the kernel's counters as points. What is absent is
None, never zero. Heat, fans, throttling, watts and wear are the board's: `telemetry/board.py`.

Every path begins at a root, so that a recorded tree of another board can be read as well as this machine's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from msgspec import Struct
from msgspec.structs import asdict

from broker import points
from broker.messages import FieldValue, Point
from telemetry import procfs
from telemetry.cgroup import RESOURCES, pressure
from telemetry.files import Sources, as_number, number, text
from telemetry.procfs import floats

Fields = dict[str, FieldValue | None]
_PROC = Path("/proc")
_KILOHERTZ = 1000


class ProcessMemory(Struct, frozen=True):
    """Bytes of a process. PSS counts a page shared by n processes as 1/n in each, so that sums are right."""

    rss_bytes: int
    pss_bytes: int | None
    file_pss_bytes: int | None
    """Of the PSS, pages of files: a mapped model, libraries."""


def process_memory(pid: int, proc: Path = _PROC) -> ProcessMemory | None:
    """The memory of a process, None when it is gone. PSS needs the right to read its smaps_rollup."""
    try:
        fields = _fields((proc / str(pid) / "smaps_rollup").read_text())
        return ProcessMemory(fields["Rss"], fields["Pss"], fields.get("Pss_File"))
    except (OSError, KeyError):
        pass
    try:
        fields = _fields((proc / str(pid) / "status").read_text())
        return ProcessMemory(fields["VmRSS"], None, None)
    except (OSError, KeyError):
        return None


def process_cost(pid: int) -> tuple[float, int] | None:
    """CPU seconds and resident bytes of a process, None when it is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            spent, memory = process.cpu_times(), process.memory_info()
    except psutil.Error:
        return None
    return spent.user + spent.system, memory.rss


def _fields(text: str) -> dict[str, int]:
    """Lines such as `Pss:   123 kB`, in bytes."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if len(parts) == 2 and parts[1] == "kB" and (value := as_number(parts[0])) is not None:
            found[name] = value * 1024
    return found


class Resources:
    """The node's counters, as points; shares are of the time since the sample before, of the first one since boot."""

    def __init__(
        self, root: Path, node: str, data_dir: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._node = node
        self._data_dir = data_dir
        self._clock = clock
        # psutil knows one /proc, and so does this process.
        psutil.PROCFS_PATH = str(root / "proc")
        self._sources = Sources()
        self._cpu_before: dict[str, procfs.Ticks] | None = None
        self._processes: dict[int, tuple[float, float]] = {}

    def points(self, now: int) -> list[Point | None]:
        """All of the node, at `now`, nanoseconds since the epoch; of each source by itself."""
        return self._sources.points(
            (
                ("cpu", lambda: self._cpu(now)),
                ("system", lambda: [self._system(now)]),
                ("memory", lambda: [self._memory(now)]),
                ("disks", lambda: self._disks(now)),
                ("filesystem", lambda: [self._filesystem(now)]),
                ("network", lambda: self._network(now)),
                ("pressure", lambda: self._pressure(now)),
            )
        )

    def _tags(self, **tags: str) -> dict[str, str]:
        return {"node": self._node, **tags}

    def _cpu(self, now: int) -> list[Point | None]:
        times = procfs.cpu_ticks(self._root / "proc")
        frequencies = self._frequencies()
        known = [value for cpu, value in frequencies.items() if value is not None and cpu in times]
        frequencies["all"] = sum(known) / len(known) if known else None
        before, self._cpu_before = self._cpu_before, times
        found = []
        for cpu, ticks in times.items():
            fields: Fields = {"frequency_hertz": frequencies.get(cpu)}
            spent = ticks if before is None else ticks.since(before[cpu]) if cpu in before else None
            if spent is not None and spent.total > 0:
                fields |= {
                    "busy_ratio": (spent.total - spent.idle - spent.iowait) / spent.total,
                    "user_ratio": (spent.user + spent.nice) / spent.total,
                    "system_ratio": (spent.system + spent.irq + spent.softirq) / spent.total,
                    "iowait_ratio": spent.iowait / spent.total,
                }
            found.append(points.CPU.point(now, self._tags(cpu=cpu), fields))
        return found

    def _frequencies(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for path in self._root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"):
            kilohertz = number(path)
            hertz = kilohertz * _KILOHERTZ if kilohertz is not None and kilohertz > 0 else None
            found[path.parent.parent.name.removeprefix("cpu")] = hertz
        return found

    def _system(self, now: int) -> Point | None:
        fields: Fields = dict(zip(("load1", "load5", "load15"), floats(self._root / "proc/loadavg", 3), strict=True))
        (fields["uptime_seconds"],) = floats(self._root / "proc/uptime", 1)
        fields["num_cores"] = len(procfs.cpu_ticks(self._root / "proc").keys() - {"all"}) or None
        return points.SYSTEM.point(now, self._tags(), fields)

    def _memory(self, now: int) -> Point | None:
        memory, events = procfs.table(self._root / "proc/meminfo"), procfs.table(self._root / "proc/vmstat")
        total, available = memory.get("MemTotal"), memory.get("MemAvailable")
        cached, swap, free = memory.get("Cached"), memory.get("SwapTotal"), memory.get("SwapFree")
        swapped_in, swapped_out = events.get("pswpin"), events.get("pswpout")
        fields: Fields = {
            "total_bytes": total,
            "available_bytes": available,
            "used_bytes": max(0, total - available) if total is not None and available is not None else None,
            "cached_bytes": None if cached is None else cached + memory.get("SReclaimable", 0),
            "swap_total_bytes": swap,
            "swap_used_bytes": max(0, swap - free) if swap is not None and free is not None else None,
            "swapped_in_bytes": None if swapped_in is None else swapped_in * procfs.PAGE_BYTES,
            "swapped_out_bytes": None if swapped_out is None else swapped_out * procfs.PAGE_BYTES,
        }
        return points.MEMORY.point(now, self._tags(), fields)

    def _disks(self, now: int) -> list[Point | None]:
        # Whole devices: a partition's bytes are in them already.
        devices = {path.name for path in self._root.glob("sys/block/*") if not path.name.startswith(("loop", "ram"))}
        return [
            points.DISK.point(now, self._tags(device=name), asdict(disk))
            for name, disk in procfs.disks(self._root / "proc").items()
            if name in devices
        ]

    def _filesystem(self, now: int) -> Point | None:
        if self._data_dir is None:
            return None
        try:
            found = os.statvfs(self._data_dir)
        except OSError:
            return None
        if not found.f_blocks:
            return None  # it does not count
        fields: Fields = {"total_bytes": found.f_blocks * found.f_frsize, "free_bytes": found.f_bavail * found.f_frsize}
        return points.FILESYSTEM.point(now, self._tags(path=str(self._data_dir)), fields)

    def _network(self, now: int) -> list[Point | None]:
        counters = procfs.networks(self._root / "proc")
        # A K3s node has a virtual cable for each pod; inside a pod there is nothing but such a one.
        physical = {path.parent.name for path in self._root.glob("sys/class/net/*/device")}
        names = physical & counters.keys() or counters.keys() - {"lo"}
        return [points.NETWORK.point(now, self._tags(interface=name), asdict(counters[name])) for name in sorted(names)]

    def _pressure(self, now: int) -> list[Point | None]:
        return [
            points.PRESSURE.point(
                now, self._tags(scope="node", resource=resource), pressure(self._root / "proc/pressure" / resource)
            )
            for resource in RESOURCES
        ]

    @staticmethod
    def is_gone(pid: int) -> bool:
        """Whether there is no such process, or what is left of one that ended."""
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except (psutil.Error, OSError, ValueError, LookupError):
            return False

    def process(self, now: int, pid: int, worker: str) -> Point | None:
        """A worker's process; None when it is gone or not to be read."""
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                spent = process.cpu_times()
                memory, threads, switches = process.memory_info(), process.num_threads(), process.num_ctx_switches()
        except psutil.Error:
            self._processes.pop(pid, None)
            return None
        seconds, at = spent.user + spent.system, self._clock()
        before, self._processes[pid] = self._processes.get(pid), (at, seconds)
        minor, major = _faults(self._root / "proc" / str(pid) / "stat")
        return points.PROCESS.point(
            now,
            self._tags(worker=worker),
            {
                "cpu_ratio": (seconds - before[1]) / (at - before[0]) if before and at > before[0] else None,
                "rss_bytes": memory.rss,
                "num_minor_faults": minor,
                "num_major_faults": major,
                "num_threads": threads,
                "num_voluntary_switches": switches.voluntary,
                "num_involuntary_switches": switches.involuntary,
            },
        )


def _faults(stat: Path) -> tuple[int | None, int | None]:
    """Minor and major page faults of a process (proc(5): fields 10 and 12), which psutil does not tell."""
    # The name in brackets may hold anything, so counting begins behind it.
    fields = (text(stat) or "").rpartition(")")[2].split()
    return (as_number(fields[7]), as_number(fields[9])) if len(fields) > 9 else (None, None)
