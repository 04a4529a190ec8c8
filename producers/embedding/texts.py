"""Texts from a file: a line each, or a field of each JSON line. What is no text is named by its line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from broker.errors import TurnpikeError


class NoText(TurnpikeError):
    """A line that holds no text."""

    def __init__(self, number: int, reason: str) -> None:
        self.number = number
        self.reason = reason
        super().__init__(f"line {number}: {reason}")


class Texts:
    """Of lines, in their order; blank lines are left out, and counted."""

    def __init__(self, lines: Iterable[str], field: str | None = None) -> None:
        """With a `field` each line is a JSON object that has its text there."""
        self._lines = lines
        self._field = field
        self.num_blank = 0

    def __iter__(self) -> Iterator[str]:
        """Once, as they are read. Raises NoText."""
        for number, line in enumerate(self._lines, 1):
            if not line.strip():
                self.num_blank += 1
                continue
            yield line.rstrip("\r\n") if self._field is None else self._of_row(line, number, self._field)

    def _of_row(self, line: str, number: int, field: str) -> str:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise NoText(number, f"is no JSON: {error}") from None
        found = row.get(field) if isinstance(row, dict) else None
        if not isinstance(found, str) or not found:
            raise NoText(number, f"has no text in its field {field!r}")
        return found
