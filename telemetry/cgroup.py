"""A process's control group, v1 and v2: what it may use and what it has used."""

from __future__ import annotations

from pathlib import Path

from broker import points
from broker.messages import FieldValue, Point
from telemetry.files import number, scaled, table, text

Fields = dict[str, FieldValue | None]
MICROSECONDS = 1e-6
NANOSECONDS = 1e-9
NO_LIMIT_V1 = 2**60
"""v1 says "no limit" by a number near the largest one."""
RESOURCES = ("cpu", "memory", "io")


def pressure(path: Path) -> Fields:
    """The fields of a PSI file: `some avg10=0.12 avg60=… avg300=… total=MICROSECONDS`, and the same for `full`."""
    found: Fields = {}
    for line in (text(path) or "").splitlines():
        kind, *pairs = line.split()
        values = dict(pair.partition("=")[::2] for pair in pairs)
        if kind in ("some", "full") and "avg10" in values and "total" in values:
            found[f"{kind}_ratio"] = float(values["avg10"]) / 100
            found[f"{kind}_seconds"] = int(values["total"]) * MICROSECONDS
    return found


class Cgroup:
    """Where the control group of process `pid` lies under `root`, in whichever version."""

    def __init__(self, root: Path, pid: int | str) -> None:
        self._mount = root / "sys/fs/cgroup"
        self._paths = dict[str, str]()
        for line in (text(root / "proc" / str(pid) / "cgroup") or "").splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                self._paths[controller] = path
        self.is_v2 = (self._mount / "cgroup.controllers").exists()

    def _folder(self, controller: str) -> Path:
        """v2 has one hierarchy, v1 one a controller. Inside a container the mount itself is the container's group."""
        mount = self._mount if self.is_v2 else self._mount / controller
        path = self._paths.get("" if self.is_v2 else controller, "/")
        within = mount / path.lstrip("/")
        return within if ".." not in path and within.is_dir() else mount

    def fields(self) -> Fields:
        """The fields of points.CGROUP; those that this group does not tell are None."""
        return self._v2() if self.is_v2 else self._v1()

    def _v2(self) -> Fields:
        folder = self._folder("")
        cpu, memory = table(folder / "cpu.stat"), table(folder / "memory.events")
        quota, _, period = (text(folder / "cpu.max") or "max").partition(" ")
        return {
            "cpu_seconds": scaled(cpu.get("usage_usec"), MICROSECONDS),
            "throttled_seconds": scaled(cpu.get("throttled_usec"), MICROSECONDS),
            "cpu_limit_cores": int(quota) / int(period) if quota != "max" else None,
            "memory_bytes": number(folder / "memory.current"),
            "memory_limit_bytes": number(folder / "memory.max"),
            "num_oom_kills": memory.get("oom_kill"),
        }

    def _v1(self) -> Fields:
        cpu, memory = self._folder("cpu"), self._folder("memory")
        quota, period = number(cpu / "cpu.cfs_quota_us"), number(cpu / "cpu.cfs_period_us")
        limit = number(memory / "memory.limit_in_bytes")
        return {
            "cpu_seconds": scaled(number(self._folder("cpuacct") / "cpuacct.usage"), NANOSECONDS),
            "throttled_seconds": scaled(table(cpu / "cpu.stat").get("throttled_time"), NANOSECONDS),
            "cpu_limit_cores": quota / period if quota is not None and quota > 0 and period else None,
            "memory_bytes": number(memory / "memory.usage_in_bytes"),
            "memory_limit_bytes": limit if limit is not None and limit < NO_LIMIT_V1 else None,
            "num_oom_kills": table(memory / "memory.oom_control").get("oom_kill"),
        }

    def points(self, now: int, node: str, worker: str, scope: str) -> list[Point | None]:
        """What it used, and its pressure where the kernel tells (v2)."""
        tags = {"node": node, "scope": scope, "worker": worker}
        found = [points.CGROUP.point(now, tags, self.fields())]
        if self.is_v2 and scope == "pod":
            for resource in RESOURCES:
                of = {"node": node, "scope": scope, "resource": resource}
                found.append(points.PRESSURE.point(now, of, pressure(self._folder("") / f"{resource}.pressure")))
        return found
