"""Resources of a process, read from Linux. What is absent is None, never zero."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

_PROC = Path("/proc")


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


def _fields(text: str) -> dict[str, int]:
    """Lines such as `Pss:   123 kB`, in bytes."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if len(parts) == 2 and parts[1] == "kB":
            found[name] = int(parts[0]) * 1024
    return found
