"""Small files of the kernel. What cannot be read is None: absent, never zero."""

from __future__ import annotations

from pathlib import Path


def text(path: Path) -> str | None:
    """The file's text without the white space around it; None where it is not there or not ours to read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def number(path: Path, base: int = 10) -> int | None:
    """The file's number; None where there is none."""
    found = text(path)
    try:
        return None if found is None else int(found, base)
    except ValueError:
        return None


def table(path: Path) -> dict[str, int]:
    """Lines such as `oom_kill 3`; those that are otherwise are left out."""
    found = {}
    for line in (text(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if value.strip().isdigit():
            found[name] = int(value)
    return found


def scaled(value: int | None, unit: float) -> float | None:
    """In other units; None stays None."""
    return None if value is None else value * unit
