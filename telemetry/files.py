"""Small files of the kernel. What cannot be read is None: absent, never zero."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from broker.messages import Point

log = logging.getLogger(__name__)


def text(path: Path) -> str | None:
    """The file's text without the white space around it; None where it is not there or not ours to read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def as_number(found: str, base: int = 10) -> int | None:
    """The text's number; None where it is none, or more than 64 bits, which no counter has and no database takes."""
    try:
        value = int(found, base)
    except ValueError:
        return None
    return value if -(2**63) <= value < 2**63 else None


def number(path: Path, base: int = 10) -> int | None:
    """The file's number; None where there is none."""
    found = text(path)
    return None if found is None else as_number(found, base)


def table(path: Path) -> dict[str, int]:
    """Lines such as `oom_kill 3`; those that are otherwise are left out."""
    found = {}
    for line in (text(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if (count := as_number(value.strip())) is not None and count >= 0:
            found[name] = count
    return found


def scaled(value: int | None, unit: float) -> float | None:
    """In other units; None stays None."""
    return None if value is None else value * unit


class Sources:
    """Asks one source of points after the other: one that fails costs its own points, and is told once."""

    def __init__(self) -> None:
        self._told = set[str]()

    def points(self, sources: Iterable[tuple[str, Callable[[], Iterable[Point | None]]]]) -> list[Point | None]:
        """What those that can be read give, by the sources' names and calls."""
        found: list[Point | None] = []
        for name, source in sources:
            try:
                found += source()
            except (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
                # A file of a board that nobody here has seen.
                if name not in self._told:
                    self._told.add(name)
                    log.warning("source failed name=%s error=%s: %s", name, type(error).__name__, error)
        return found
