"""What boards say of their loads, read from their logs: how many, how many swaps, and whether two loaded one model."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

KILLED = "killed by the run"
_LINE = re.compile(r"^(\d\d):(\d\d):(\d\d) (.*)$")
_DAY = 86400.0
_BEGUN = re.compile(r" loading model=(\S+) copy=\d+ why=(.*) planned_bytes=")
_OVER = re.compile(r" (?:serving|unloaded) model=(\S+) | ! (\S+): ")
_SWAP = re.compile(r" unloading model=\S+ why=.* for=(?!None$)")
_ASKED_FOR = ("copy", "ordered", "pinned")
"""Why a model is loaded though another board has it."""


@dataclass(frozen=True)
class Loads:
    """Of all boards of a run."""

    num_loads: int = 0
    num_swaps: int = 0
    """Models that went for another one."""
    longest_double: float = 0.0
    """Seconds for which two boards loaded a model that one of them should have."""


@dataclass(frozen=True)
class _Load:
    board: str
    model: str
    began_at: float
    ended_at: float


def stamp(log: Path, words: str) -> None:
    """Adds a line as the board's own are, of what it cannot say itself."""
    text = f"{time.strftime('%H:%M:%S')} I run {words}\n"
    with log.open("a") as file:
        file.write(text)


def loads_of(logs: Iterable[Path]) -> Loads:
    """From the logs, one a board."""
    loads: list[_Load] = []
    num_loads = num_swaps = 0
    for log in logs:
        begun: dict[str, float] = {}
        for at, words in _lines(log):
            num_swaps += _SWAP.search(words) is not None
            if KILLED in words or " draining models=" in words:
                loads += [_Load(log.name, model, began_at, at) for model, began_at in begun.items()]
                begun.clear()
            elif found := _BEGUN.search(words):
                num_loads += 1
                if found[2] not in _ASKED_FOR:
                    begun[found[1]] = at
            elif (found := _OVER.search(words)) and (began_at := begun.pop(found[1] or found[2], None)) is not None:
                loads.append(_Load(log.name, found[1] or found[2], began_at, at))
    return Loads(num_loads, num_swaps, _longest_double(loads))


def _lines(log: Path) -> Iterable[tuple[float, str]]:
    """The board's own: those of its workers begin with their models. In seconds from the first one's
    midnight on."""
    days, before = 0, 0.0
    for line in log.read_text(errors="replace").splitlines():
        if found := _LINE.match(line):
            at = 3600.0 * int(found[1]) + 60.0 * int(found[2]) + int(found[3])
            days += at < before - _DAY / 2
            before = at
            yield _DAY * days + at, found[4]


def _longest_double(loads: list[_Load]) -> float:
    found = [0.0]
    for number, one in enumerate(loads):
        for other in loads[number + 1 :]:
            if one.model == other.model and one.board != other.board:
                found.append(min(one.ended_at, other.ended_at) - max(one.began_at, other.began_at))
    return max(found)
