"""What a decode step takes by the number of its rows, so that steps of different numbers can be compared. Pure.

A row is one token whose logits are wanted: of a sequence each, or several guesses of one. Kernels take them in fours,
so four may cost what three do, or less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_SMOOTHING = 0.4
_DRIFT = 0.3
"""What a step says of steps with other numbers of rows: context grows and boards get hot for all of them, and some are
not taken for long."""


class RowCosts:
    """Seconds of a decode step, learnt from the steps that ran."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        """`seconds` by number of rows; at least one of them."""
        assert seconds
        self._seconds = dict(seconds)

    def seconds(self, num_rows: int, a_row: float = math.inf) -> float:
        """Measured where it was; else as much as with more rows, or in proportion to fewer ones, whichever is less. A
        row more costs `a_row` at most."""
        if num_rows in self._seconds:
            return self._seconds[num_rows]
        more = min((rows for rows in self._seconds if rows > num_rows), default=None)
        fewer = max((rows for rows in self._seconds if rows < num_rows), default=None)
        found = [self._seconds[more]] if more is not None else []
        if fewer is not None:
            known = self._seconds[fewer]
            found.append(known + (num_rows - fewer) * min(a_row, known / fewer))
        return min(found)

    def known(self, num_rows: int) -> float:
        """Of as many rows as were measured, but no more than so many, if there are any; nothing is guessed."""
        return self._seconds[max((rows for rows in self._seconds if rows <= num_rows), default=min(self._seconds))]

    def observe(self, num_rows: int, seconds: float) -> None:
        """Learns from a step that took so long."""
        known = self._seconds.setdefault(num_rows, seconds)
        error = seconds / known - 1
        for rows in self._seconds:
            self._seconds[rows] *= 1 + (_SMOOTHING if rows == num_rows else _DRIFT) * error
