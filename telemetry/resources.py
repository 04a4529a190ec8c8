"""What a node and the workers on it use: psutil's counters as points. What is absent is None, never zero.

Every path begins at a root, so that a recorded tree of another board can be read as well as this machine's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from msgspec import Struct

from broker import points
from broker.messages import FieldValue, Point
from telemetry.cgroup import RESOURCES, pressure
from telemetry.files import number, text

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
        if len(parts) == 2 and parts[1] == "kB":
            found[name] = int(parts[0]) * 1024
    return found


class Resources:
    """The node's counters, as points; rates need the sample before, so the first one lacks them."""

    def __init__(
        self, root: Path, node: str, data_dir: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._node = node
        self._data_dir = data_dir
        self._clock = clock
        # psutil knows one /proc, and so does this process.
        psutil.PROCFS_PATH = str(root / "proc")
        self._cpu_before: dict[str, tuple[float, ...]] = {}
        self._processes: dict[int, tuple[float, float]] = {}

    def points(self, now: int) -> list[Point | None]:
        """All of the node, at `now`, nanoseconds since the epoch."""
        return [
            *self._cpu(now),
            self._system(now),
            self._memory(now),
            *self._disks(now),
            self._filesystem(now),
            *self._network(now),
            *self._pressure(now),
        ]

    def _tags(self, **tags: str) -> dict[str, str]:
        return {"node": self._node, **tags}

    def _cpu(self, now: int) -> list[Point | None]:
        frequencies = self._frequencies()
        known = [value for value in frequencies.values() if value is not None]
        frequencies["all"] = sum(known) / len(known) if known else None
        times = {"all": psutil.cpu_times(), **{str(i): one for i, one in enumerate(psutil.cpu_times(percpu=True))}}
        found = []
        for cpu, spent in times.items():
            fields: Fields = {"frequency_hertz": frequencies.get(cpu)}
            before, self._cpu_before[cpu] = self._cpu_before.get(cpu), tuple(spent)
            if before is not None:
                delta = type(spent)(*(max(0.0, later - earlier) for later, earlier in zip(spent, before, strict=True)))
                # guest time is in user time already
                total = sum(delta) - delta.guest - delta.guest_nice
                if total > 0:
                    fields |= {
                        "busy_ratio": (total - delta.idle - delta.iowait) / total,
                        "user_ratio": (delta.user + delta.nice) / total,
                        "system_ratio": (delta.system + delta.irq + delta.softirq) / total,
                        "iowait_ratio": delta.iowait / total,
                    }
            found.append(points.CPU.point(now, self._tags(cpu=cpu), fields))
        return found

    def _frequencies(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for path in self._root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"):
            kilohertz = number(path)
            found[path.parent.parent.name.removeprefix("cpu")] = None if kilohertz is None else kilohertz * _KILOHERTZ
        return found

    def _system(self, now: int) -> Point | None:
        loads = [float(part) for part in (text(self._root / "proc/loadavg") or "").split()[:3]]
        uptime = (text(self._root / "proc/uptime") or "").split()
        fields: Fields = dict(zip(("load1", "load5", "load15"), loads, strict=False))
        fields["uptime_seconds"] = float(uptime[0]) if uptime else None
        fields["num_cores"] = len(psutil.cpu_times(percpu=True))
        return points.SYSTEM.point(now, self._tags(), fields)

    def _memory(self, now: int) -> Point | None:
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        return points.MEMORY.point(
            now,
            self._tags(),
            {
                "total_bytes": memory.total,
                "available_bytes": memory.available,
                "used_bytes": memory.total - memory.available,
                "cached_bytes": memory.cached,
                "swap_total_bytes": swap.total,
                "swap_used_bytes": swap.used,
                "swapped_in_bytes": swap.sin,
                "swapped_out_bytes": swap.sout,
            },
        )

    def _disks(self, now: int) -> list[Point | None]:
        # Whole devices: a partition's bytes are in them already.
        devices = {path.name for path in self._root.glob("sys/block/*") if not path.name.startswith(("loop", "ram"))}
        return [
            points.DISK.point(
                now,
                self._tags(device=name),
                {
                    "read_bytes": disk.read_bytes,
                    "written_bytes": disk.write_bytes,
                    "busy_seconds": disk.busy_time / 1000,
                },
            )
            for name, disk in (psutil.disk_io_counters(perdisk=True, nowrap=False) or {}).items()
            if name in devices
        ]

    def _filesystem(self, now: int) -> Point | None:
        if self._data_dir is None:
            return None
        try:
            found = os.statvfs(self._data_dir)
        except OSError:
            return None
        fields: Fields = {"total_bytes": found.f_blocks * found.f_frsize, "free_bytes": found.f_bavail * found.f_frsize}
        return points.FILESYSTEM.point(now, self._tags(path=str(self._data_dir)), fields)

    def _network(self, now: int) -> list[Point | None]:
        counters = psutil.net_io_counters(pernic=True, nowrap=False) or {}
        # A K3s node has a virtual cable for each pod; inside a pod there is nothing but such a one.
        physical = {path.parent.name for path in self._root.glob("sys/class/net/*/device")}
        names = physical & counters.keys() or counters.keys() - {"lo"}
        return [
            points.NETWORK.point(
                now,
                self._tags(interface=name),
                {
                    "received_bytes": counters[name].bytes_recv,
                    "sent_bytes": counters[name].bytes_sent,
                    "num_errors": counters[name].errin + counters[name].errout,
                    "num_dropped": counters[name].dropin + counters[name].dropout,
                },
            )
            for name in sorted(names)
        ]

    def _pressure(self, now: int) -> list[Point | None]:
        return [
            points.PRESSURE.point(
                now, self._tags(scope="node", resource=resource), pressure(self._root / "proc/pressure" / resource)
            )
            for resource in RESOURCES
        ]

    def process(self, now: int, pid: int, worker: str) -> Point | None:
        """A worker's process; None when it is gone."""
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
    return (int(fields[7]), int(fields[9])) if len(fields) > 9 else (None, None)
