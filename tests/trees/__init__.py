"""/proc, /sys and cgroup files of other boards, each tree in one text file, and what records one.

    python -m tests.trees FILE     writes what telemetry reads on this machine

A tree begins with lines that say where it is from (`# …`); then for each file `==> path <==` and what it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
PATTERNS = (
    "proc/stat",
    "proc/meminfo",
    "proc/vmstat",
    "proc/diskstats",
    "proc/loadavg",
    "proc/uptime",
    "proc/net/dev",
    "proc/pressure/*",
    "proc/self/cgroup",
    "sys/block/*/device/life_time",
    "sys/block/*/device/pre_eol_info",
    "sys/block/*/size",
    "sys/class/hwmon/hwmon*/name",
    "sys/class/hwmon/hwmon*/*_input",
    "sys/class/hwmon/hwmon*/*_label",
    "sys/class/net/*/device/uevent",
    "sys/class/powercap/intel-rapl:*/name",
    "sys/class/powercap/intel-rapl:*/*energy*_uj",
    "sys/class/thermal/*/type",
    "sys/class/thermal/*/temp",
    "sys/class/thermal/*/*_state",
    "sys/devices/platform/*/*firmware/get_throttled",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "sys/fs/cgroup/cgroup.controllers",
    "sys/fs/cgroup/*.stat",
    "sys/fs/cgroup/*.max",
    "sys/fs/cgroup/*.pressure",
    "sys/fs/cgroup/*.slice/*.max",
    "sys/fs/cgroup/*.slice/memory.[cs]*t",
    "sys/fs/cgroup/*.slice/*.service/*.max",
    "sys/fs/cgroup/*.slice/*.service/memory.[cs]*t",
    "sys/fs/cgroup/memory.current",
    "sys/fs/cgroup/memory.events",
    "sys/fs/cgroup/cpu/cpu.cfs_*_us",
    "sys/fs/cgroup/cpu/cpu.stat",
    "sys/fs/cgroup/cpuacct/cpuacct.usage",
    "sys/fs/cgroup/memory/memory.limit_in_bytes",
    "sys/fs/cgroup/memory/memory.oom_control",
    "sys/fs/cgroup/memory/memory.stat",
    "sys/fs/cgroup/memory/memory.usage_in_bytes",
)
_HEAD = re.compile(r"^==> (?P<path>\S+) <==\n", re.M)


def record(root: Path) -> Iterator[str]:
    """The parts of a tree file: of every file that is there and can be read."""
    for pattern in PATTERNS:
        for path in sorted(root.glob(pattern)):
            try:
                text = path.read_text()
            except OSError:
                continue
            yield f"==> {path.relative_to(root)} <==\n{text.rstrip()}\n"


def plant(name: str, folder: Path) -> Path:
    """The tree `name` as files below `folder`, which is the root to give to telemetry."""
    parts = _HEAD.split((FOLDER / f"{name}.txt").read_text())
    for path, text in zip(parts[1::2], parts[2::2], strict=True):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder
