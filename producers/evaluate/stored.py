"""What was answered before, from the file of an evaluation that was interrupted."""

from __future__ import annotations

import codecs
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from producers.data.rows import summary
from producers.evaluate.items import EvalError
from producers.evaluate.methods import Answered

_BEGINNING = b'{"number":'
"""Of a line of what was answered."""
_MARK_CHARACTERS = 16


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


class _Marked(Struct, frozen=True):
    """What a line says beside the outcome."""

    of: str = ""
    file: str = ""


@dataclass(frozen=True)
class Marks:
    """What tells items from others of the same numbers, and a model's file from others of its name."""

    items: Mapping[int, str] = field(default_factory=dict)
    """A digest of each item and the model's name, by the item's number."""
    files: Set[str] = frozenset()
    """The fingerprints of what serves the model now."""

    def line(self, answered: Numbered, fingerprint: str) -> bytes:
        """Of an outcome that a worker with this file gave."""
        marked = {"of": self.items[answered.number], "file": fingerprint}
        return msgspec.json.encode(msgspec.to_builtins(answered) | marked) + b"\n"

    def check(self, path: Path, at: int, number: int, line: bytes) -> None:
        """Raises EvalError where the line is not of the item of that number here, or of another model."""
        if (wanted := self.items.get(number)) is None:
            return
        found = msgspec.json.decode(line, type=_Marked)
        if found.of != wanted:
            raise EvalError(path, at, "is of another item, or model: --out FILE names another record")
        if found.file and self.files and found.file not in self.files:
            raise EvalError(path, at, "is of another file of that model: --out FILE names another record")


def marks_of(model: str, items: Sequence[Numbered], files: Set[str]) -> Marks:
    """Those of some items, which a model with these files is asked."""

    def digest(item: Numbered) -> str:
        return hashlib.sha256(msgspec.json.encode((model, item))).hexdigest()[:_MARK_CHARACTERS]

    return Marks({item.number: digest(item) for item in items}, files)


def read_answers(path: Path, say: Callable[[str], None]) -> list[Answered]:
    """What was chosen before. As `read_outcomes`."""
    return read_outcomes(path, say, choice, Marks())


def choice(line: bytes) -> Answered:
    """An item's outcome from its line. Raises msgspec.DecodeError."""
    return msgspec.json.decode(line, type=_Stored).answered()


def read_outcomes[A: Numbered](
    path: Path, say: Callable[[str], None], read: Callable[[bytes], A], marks: Marks
) -> list[A]:
    """What was answered before, each line read by `read`; a last line that a kill cut off is left out, and cut off the
    file. A line that is damaged is left out as well: what it was of is asked again. Raises EvalError for a file that
    holds no answers, or answers to other items or of another model."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    rest = content[len(whole) :].removeprefix(codecs.BOM_UTF8)
    found: dict[int, A] = {}
    damaged: list[EvalError] = []
    for number, line in enumerate(whole.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            if line.strip():
                one = read(line)
                marks.check(path, number, one.number, line)
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
