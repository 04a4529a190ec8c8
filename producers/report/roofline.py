"""How much of what its node's memory gives to readers a worker's decode reads, by what the worker said of itself. Pure.

A token of a stream takes one decode step at least, and each step reads the weights that a token is computed with: so
those bytes, for each token of a turn, are held against the bandwidth of reading that the worker measured at its start.
Records of older releases do not tell it, and nothing is said of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from producers.records.files import Run
from producers.records.lines import TurnRecord


class Roofline(Struct, frozen=True):
    """Of one worker's turns."""

    worker: str
    node: str
    weights_bytes: int
    """That are read for a token."""
    read_peak_bytes_per_second: float
    """What the node's memory gives to readers: the best of 1, 2, … threads that only read."""
    read_peak_threads: int
    """That read fastest."""
    read_bytes_per_second: float
    """The weights, for each token of a stream after its first, ÷ the worker's time for them."""

    @property
    def share(self) -> float:
        """Of the peak that is read."""
        return self.read_bytes_per_second / self.read_peak_bytes_per_second

    @property
    def words(self) -> str:
        """A sentence for people."""
        read, peak = self.read_bytes_per_second / 1e9, self.read_peak_bytes_per_second / 1e9
        return (
            f"{self.worker} on {self.node}: a stream's decode reads {read:.3g} GB/s of weights, "
            f"{100 * self.share:.0f} % of the {peak:.3g} GB/s that memory gives to its best number of reading threads, "
            f"{self.read_peak_threads}"
        )


def rooflines(run: Run) -> list[Roofline]:
    """Of each worker that told its bandwidth and answered something, in the order of the record."""
    turns = run.counted()
    found = [_roofline(worker, turns) for worker in run.header.workers]
    return [one for one in found if one is not None]


def _roofline(worker: Mapping[str, Any], turns: Sequence[TurnRecord]) -> Roofline | None:
    name, facts = worker.get("worker"), worker.get("facts")
    if not isinstance(name, str) or not isinstance(facts, Mapping):
        return None
    weights, peak = _number(facts.get("active_bytes")), _number(facts.get("read_peak_bytes_per_second"))
    threads = _number(facts.get("read_peak_threads"))
    its = [turn for turn in turns if turn.worker == name and not turn.is_failed and turn.completion_tokens > 1]
    seconds = sum(turn.decode_seconds or 0.0 for turn in its)
    if weights is None or peak is None or threads is None or seconds <= 0:
        return None
    num_tokens = sum(turn.completion_tokens - 1 for turn in its if turn.decode_seconds)
    node = str(worker.get("node", ""))
    return Roofline(name, node, int(weights), peak, int(threads), weights * num_tokens / seconds)


def _number(text: object) -> float | None:
    """Above zero; None of what is none."""
    try:
        value = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
