"""What kind of machine this is, as /proc and /sys tell it: for logs, measurements, and whoever reads them later."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

from workers.machine.cores import num_cores

CPUINFO = "/proc/cpuinfo"


def machine_facts() -> dict[str, str]:
    """CPU, board, kernel, governor and the cores that this process may use; empty where the machine does not tell."""
    return {
        "cpu": cpu_name(),
        "board": _text("/proc/device-tree/model"),
        "kernel": platform.release(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "cores": str(num_cores()),
    }


def cpu_name() -> str:
    """As the kernel names it; of a Raspberry Pi the board's name."""
    return _first_line(CPUINFO, ("model name", "Model"))


def cpu_flags() -> set[str]:
    """What the CPU can beyond the least, in the kernel's words."""
    return set(_first_line(CPUINFO, ("flags", "Features")).split())


def _text(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip("\0\n ")
    return ""


def _first_line(path: str, names: tuple[str, ...]) -> str:
    """The value of the first line that begins with one of the names."""
    for line in _text(path).splitlines():
        if line.startswith(names):
            return line.partition(":")[2].strip()
    return ""
