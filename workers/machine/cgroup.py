"""What the control groups of this process leave it, v1 and v2.

The kernel charges the page cache to a group as well, and gives it back when the group needs the memory; systemd limits
a unit by the unit's own group, Kubernetes a pod by groups above the container's: the tightest of all counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

NO_LIMIT_V1 = 2**60
"""v1 says "no limit" by a number near the largest one."""


def left_bytes(proc: Path, mount: Path) -> int | None:
    """The memory that may still be taken under the groups' limits; None without one. `mount` is /sys/fs/cgroup."""
    left = [
        max(0, limit - (_charged(folder, names) or 0))
        for folder, names in _groups(proc, mount)
        if (limit := _number(folder / names[0])) is not None and limit < NO_LIMIT_V1
    ]
    return min(left, default=None)


_Names = tuple[str, str, tuple[str, str]]
_V2: _Names = ("memory.max", "memory.current", ("file", "shmem"))
_V1: _Names = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_cache", "total_shmem"))


def _groups(proc: Path, mount: Path) -> Iterator[tuple[Path, _Names]]:
    """The process's own groups and those above them, with the names of their files.

    Inside a container the mount is the container's group, and the path may be the host's: what is not there is left
    out, and a path that leads out of the mount as well.
    """
    paths = {"": "/", "memory": "/"}
    with contextlib.suppress(OSError):
        for line in (proc / "self/cgroup").read_text(errors="replace").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            paths |= {name: path for name in controllers.split(",") if name in paths and ".." not in path}
    for root, path, names in ((mount, paths[""], _V2), (mount / "memory", paths["memory"], _V1)):
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_dir():
                yield folder, names
            if folder == root:
                break


def _charged(folder: Path, names: _Names) -> int | None:
    """What counts against the limit less the file pages that can be given back; those of a tmpfs cannot."""
    _, usage_name, (cache_name, shared_name) = names
    usage = _number(folder / usage_name)
    if usage is None:
        return None
    stat: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in (folder / "memory.stat").read_text(errors="replace").splitlines():
            name, _, value = line.partition(" ")
            if value.strip().isdecimal():
                stat[name] = int(value)
    cache = stat.get(cache_name, stat.get("cache", 0)) - stat.get(shared_name, stat.get("shmem", 0))
    return max(0, usage - max(0, cache))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
