"""What memory a board has for its models together, and how short of it the node is. Reads /proc and the cgroup."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from workers.machine.memory import RESERVE_BYTES, available_bytes

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
GRAIN_BYTES = 16 * 1024 * 1024
"""What others take and give back all the time is no news."""
_HELD = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
_SOME = re.compile(r"^some avg10=(\d+(?:\.\d+)?) ", re.MULTILINE)


def held_bytes(pid: int, proc: Path = PROC) -> int:
    """What a process holds that the system cannot drop: all but pages of files. 0 where there is no such process."""
    with contextlib.suppress(OSError):
        return 1024 * sum(map(int, _HELD.findall((proc / str(pid) / "status").read_text(errors="replace"))))
    return 0


def board_bytes(
    pids: Iterable[int], most: int | None = None, kept: int = 0, proc: Path = PROC, cgroup: Path = CGROUP
) -> int:
    """For all models of a board together: what is available, what its workers (`pids`) hold of it by now, and `kept`,
    which the board holds for them and may give back; less what is kept free. `most` is the operator's bound.

    The files of loaded models count as available, mapped as they are, so that this stays as it is while models come and
    go; others' needs do not.
    """
    found = available_bytes(proc, cgroup) + kept + sum(held_bytes(pid, proc) for pid in pids) - RESERVE_BYTES
    found = max(0, found - found % GRAIN_BYTES)
    return found if most is None else min(found, most)


def memory_pressure(proc: Path = PROC, cgroup: Path = CGROUP) -> float:
    """The share of the last ten seconds in which something waited for memory: in this process's control group, or on
    the machine. 0 where the kernel does not tell."""
    files = [proc / "pressure/memory"]
    with contextlib.suppress(OSError):
        own = (proc / "self/cgroup").read_text(errors="replace").rpartition("0::")[2].strip()
        if ".." not in own:
            files.append(cgroup / own.lstrip("/") / "memory.pressure")
    found = 0.0
    for file in files:
        with contextlib.suppress(OSError):
            if match := _SOME.search(file.read_text(errors="replace")):
                found = max(found, min(1.0, float(match[1]) / 100))
    return found
