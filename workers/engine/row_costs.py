"""What a decode step takes by the number of its rows, so that steps of different numbers can be compared. Pure, but for
the measurement that it begins with.

A row is one token whose logits are wanted: of a sequence each, or several guesses of one. Kernels take them in fours,
so four may cost what three do, or less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from workers.engine.protocol import Engine, Span
from workers.engine.scheduler import MIN_PREFILL_TOKENS

MEASURED = (1, 4, 8)
"""Rows that are tried before anybody waits; all others are learnt as they come."""
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

    def seconds(self, num_rows: int) -> float:
        """Measured where it was; else as much as with more rows, or in proportion to fewer ones, whichever is less."""
        if num_rows in self._seconds:
            return self._seconds[num_rows]
        more = min((rows for rows in self._seconds if rows > num_rows), default=None)
        fewer = max((rows for rows in self._seconds if rows < num_rows), default=None)
        found = [self._seconds[more]] if more is not None else []
        if fewer is not None:
            found.append(self._seconds[fewer] * num_rows / fewer)
        return min(found)

    def observe(self, num_rows: int, seconds: float) -> None:
        """Learns from a step that took so long."""
        known = self._seconds.setdefault(num_rows, seconds)
        error = seconds / known - 1
        for rows in self._seconds:
            self._seconds[rows] *= 1 + (_SMOOTHING if rows == num_rows else _DRIFT) * error


def measure_rows(engine: Engine, clock: Callable[[], float] = time.perf_counter) -> dict[int, float]:
    """Seconds of a decode step by number of rows, the quicker of two, behind a short prompt. Raises EngineError."""
    begin = min(MIN_PREFILL_TOKENS, engine.max_sequence_tokens // 2)
    seconds: dict[int, float] = {}
    for num_rows in MEASURED:
        taken = []
        for _ in range(2):
            engine.truncate(0, 0)
            engine.decode([Span(0, 0, (1,) * begin, begin - 1)])
            started = clock()
            engine.decode([Span(0, begin, (1,) * num_rows, begin)])
            taken.append(max(clock() - started, 1e-6))
        seconds[num_rows] = min(taken)
    engine.truncate(0, 0)
    return seconds
