"""Who a board is, and what it is given: its node, its files, and a way to start workers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.errors import TurnpikeError
from workers.boards.child import Child
from workers.boards.load_times import LoadTimes
from workers.boards.offers import Offer
from workers.boards.parked import Parked
from workers.boards.view import Rules

Start = Callable[[Offer, Callable[[], None]], Awaitable[Child]]
"""Starts a model's worker, which calls what it is given when it says something."""
StartSpare = Callable[[Callable[[], None]], Awaitable[Child]]
"""Starts one that waits for its model (`Child.give`)."""


class Machine(Protocol):
    """What a board asks of its node."""

    def memory_bytes(self, pids: Sequence[int], kept: int) -> int:
        """For all models together, while these workers run and so many bytes are kept for others."""
        ...

    def memory_pressure(self) -> float:
        """0 to 1."""
        ...

    def is_throttled(self) -> bool:
        """Whether heat or its supply slow it down."""
        ...


class OtherBoard(TurnpikeError):
    """Another process says that it is this board."""

    def __init__(self, board: str) -> None:
        self.board = board
        super().__init__(
            f"another process is the board {board} already: end that one first, or give this one another --node"
        )


@dataclass(frozen=True)
class Board:
    """Who a board is and what it is given."""

    name: str
    rules: Rules
    pins: frozenset[str]
    """Models that its settings have it load and keep."""
    machine: Machine
    look: Callable[[], Mapping[str, Offer]]
    """At the files. Blocks."""
    start: Start
    load_times: LoadTimes
    parked: Parked | None = None
    """Conversations of models that are not loaded."""
    max_parked_bytes: int = 0
    start_spare: StartSpare | None = None
    """None: none is started ahead."""
    keeps_spare: bool = False
    """Whether there always is one."""
