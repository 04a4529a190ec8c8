"""What was answered before, from the file of an evaluation that was interrupted."""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from producers.data.rows import summary
from producers.evaluate.items import EvalError
from producers.evaluate.methods import Answered

_BEGINNING = b'{"number":'
"""Of a line of what was answered."""


class _Stored(Struct, frozen=True):
    """An Answered as JSON has it, which has no NaN."""

    number: int
    label: int
    scores: dict[str, tuple[float | None, ...]]

    def answered(self) -> Answered:
        scores = {
            method: tuple(math.nan if one is None else one for one in values) for method, values in self.scores.items()
        }
        return Answered(self.number, self.label, scores)


class Numbered(Protocol):
    """Of an item, or of its outcome."""

    @property
    def number(self) -> int:
        """The item's, in its file."""


def read_answers(path: Path, say: Callable[[str], None]) -> list[Answered]:
    """What was chosen before. As `read_outcomes`."""
    return read_outcomes(path, say, choice)


def choice(line: bytes) -> Answered:
    """An item's outcome from its line. Raises msgspec.DecodeError."""
    return msgspec.json.decode(line, type=_Stored).answered()


def read_outcomes[A: Numbered](path: Path, say: Callable[[str], None], read: Callable[[bytes], A]) -> list[A]:
    """What was answered before, each line read by `read`; a last line that a kill cut off is left out, and cut off the
    file. A line that is damaged is left out as well: what it was of is asked again. Raises EvalError for a file that
    holds no answers."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    rest = content[len(whole) :].removeprefix(codecs.BOM_UTF8)
    found: dict[int, A] = {}
    damaged: list[EvalError] = []
    for number, line in enumerate(whole.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            if line.strip():
                one = read(line)
                found[one.number] = one
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            damaged.append(EvalError(path, number, f"is no record of an evaluation: {error}"))
    if damaged and not found:
        raise damaged[0]
    if rest:
        # Somebody else's file is not cut.
        if not found and not rest.startswith(_BEGINNING) and not _BEGINNING.startswith(rest):
            raise EvalError(path, None, "is no record of an evaluation")
        path.write_bytes(whole)
    if damaged:
        say(summary(damaged))
    return list(found.values())
