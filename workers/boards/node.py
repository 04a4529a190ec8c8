"""What a board's node has for its models, as it was measured last."""

from __future__ import annotations

import time
from collections.abc import Sequence

from broker.messages.boards import BoardState, ModelOnBoard
from workers.boards.board import Machine
from workers.boards.reporter import Counts
from workers.machine.cores import num_cores


class Node:
    """A board's."""

    def __init__(self, machine: Machine) -> None:
        self.num_cores = num_cores()
        self.memory_bytes = 0
        """For all models together."""
        self._machine = machine
        self._measured_at = float("-inf")
        self._memory_pressure = 0.0
        self._is_throttled = False
        self._kept_bytes = 0

    @property
    def measured_seconds(self) -> float:
        """Since it was measured."""
        return time.monotonic() - self._measured_at

    def measure(self, pids: Sequence[int], kept_bytes: int, reserved_bytes: int) -> None:
        """Anew, while these processes of the board's run: `kept_bytes` are of conversations at rest, which make room
        for models, `reserved_bytes` are for no model."""
        machine = self._machine
        self._kept_bytes = kept_bytes
        self.memory_bytes = max(0, machine.memory_bytes(pids, kept_bytes) - reserved_bytes)
        self._memory_pressure, self._is_throttled = machine.memory_pressure(), machine.is_throttled()
        self._measured_at = time.monotonic()

    def state(
        self, board: str, models: tuple[ModelOnBoard, ...], counts: Counts, began_at: float, now: float
    ) -> BoardState:
        """What is said of a board to all, which began then; in seconds since the epoch."""
        return BoardState(
            board,
            self.memory_bytes,
            self.num_cores,
            models,
            sent_at=now,
            started_at=began_at,
            is_throttled=self._is_throttled,
            memory_pressure=self._memory_pressure,
            num_swaps=counts.num_swaps,
            loading_seconds=counts.loading_seconds,
            num_failed_loads=counts.num_failed_loads,
            num_waited=counts.num_waited,
            waited_seconds=counts.waited_seconds,
            kept_bytes=self._kept_bytes,
        )
