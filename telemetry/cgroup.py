"""A process's control group, v1 and v2: what it may use and what it has used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from broker import points
from broker.messages import FieldValue, Point
from telemetry.files import as_number, number, scaled, table, text

Fields = dict[str, FieldValue | None]
MICROSECONDS = 1e-6
NANOSECONDS = 1e-9
NO_LIMIT_V1 = 2**60
"""v1 says "no limit" by a number near the largest one."""
RESOURCES = ("cpu", "memory", "io")
_PRESSURE = re.compile(r"(?P<kind>some|full) avg10=(?P<percent>\d+(?:\.\d+)?) .*\btotal=(?P<total>\d+)\s*$")


def pressure(path: Path) -> Fields:
    """The fields of a PSI file: `some avg10=0.12 avg60=… avg300=… total=MICROSECONDS`, and the same for `full`."""
    found: Fields = {}
    for line in (text(path) or "").splitlines():
        match = _PRESSURE.match(line)
        if match:
            found[f"{match['kind']}_ratio"] = float(match["percent"]) / 100
            found[f"{match['kind']}_seconds"] = scaled(as_number(match["total"]), MICROSECONDS)
    return found


class Cgroup:
    """Where the control group of process `pid` lies under `root`, in whichever version."""

    def __init__(self, root: Path, pid: int | str) -> None:
        self._mount = root / "sys/fs/cgroup"
        self._paths = dict[str, str]()
        for line in (text(root / "proc" / str(pid) / "cgroup") or "").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            for controller in controllers.split(","):
                self._paths[controller] = path
        self.is_v2 = (self._mount / "cgroup.controllers").exists()

    def _folders(self, controller: str) -> list[Path]:
        """The group's own and those above it, up to the mount. v2 has one hierarchy, v1 one a controller.

        Inside a container the mount itself is the container's group, whatever the path says.
        """
        mount = self._mount if self.is_v2 else self._mount / controller
        path = self._paths.get("" if self.is_v2 else controller, "/")
        within = mount / path.lstrip("/")
        if ".." in path or within == mount or not within.is_dir():
            return [mount]
        return [within, *(folder for folder in within.parents if folder == mount or mount in folder.parents)]

    def _folder(self, controller: str) -> Path:
        return self._folders(controller)[0]

    def fields(self) -> Fields:
        """The fields of points.CGROUP; those that this group does not tell are None."""
        return self._v2() if self.is_v2 else self._v1()

    def _v2(self) -> Fields:
        folder = self._folder("")
        cpu, memory = table(folder / "cpu.stat"), table(folder / "memory.events")
        return {
            "cpu_seconds": scaled(cpu.get("usage_usec"), MICROSECONDS),
            "throttled_seconds": scaled(cpu.get("throttled_usec"), MICROSECONDS),
            "cpu_limit_cores": _least(_cores(above / "cpu.max") for above in self._folders("")),
            "memory_bytes": number(folder / "memory.current"),
            "memory_limit_bytes": _least(number(above / "memory.max") for above in self._folders("")),
            "num_oom_kills": memory.get("oom_kill"),
        }

    def _v1(self) -> Fields:
        cpu, memory = self._folder("cpu"), self._folder("memory")
        limit = _least(number(above / "memory.limit_in_bytes") for above in self._folders("memory"))
        return {
            "cpu_seconds": scaled(number(self._folder("cpuacct") / "cpuacct.usage"), NANOSECONDS),
            "throttled_seconds": scaled(table(cpu / "cpu.stat").get("throttled_time"), NANOSECONDS),
            "cpu_limit_cores": _least(_cores_v1(above) for above in self._folders("cpu")),
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


def _least[N: (int, float)](limits: Iterable[N | None]) -> N | None:
    """The tightest of a group's limit and those of the groups above it."""
    return min((limit for limit in limits if limit is not None), default=None)


def _cores(path: Path) -> float | None:
    """`QUOTA PERIOD` or `max PERIOD`."""
    quota, period = map(as_number, [*(text(path) or "").split(), "", ""][:2])
    return quota / period if quota is not None and period else None


def _cores_v1(folder: Path) -> float | None:
    quota, period = number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None
