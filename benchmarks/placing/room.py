"""Boards, what is loaded on them, and time: what every server's rules act on, the same for all of them."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from benchmarks.placing.traces import BOARDS, NUM_SLOTS, Model, Trace, Turn, board_bytes

UNLOAD_SECONDS = 0.5
GIVEN_UP_SECONDS = 12 * 3600.0
"""A run that is not over so long after its last turn came never will be."""


@dataclass
class Loaded:
    """A model on a board."""

    model: Model
    since: float
    is_serving: bool = False
    is_leaving: bool = False
    leaving_at: float = 0.0
    used_at: float = 0.0
    num_in_hand: int = 0


@dataclass
class Board:
    """A board, and the models in its memory by name."""

    name: str
    memory_bytes: int
    loaded: dict[str, Loaded] = field(default_factory=dict)
    num_running: int = 0

    @property
    def free_bytes(self) -> int:
        return self.memory_bytes - sum(one.model.planned_bytes for one in self.loaded.values())

    @property
    def has_slot(self) -> bool:
        return self.num_running < NUM_SLOTS


@dataclass(frozen=True)
class Seated:
    """A turn that got its slot."""

    turn: Turn
    wait: float
    """Seconds from its arrival to its slot."""


class Gaps:
    """Of each model, from when to when there was none of it; the last gap may be left out."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[float, float]]] = {}
        self._num: Counter[str] = Counter()
        self._since: dict[str, float] = {}

    def change(self, model: Model, change: int, now: float) -> None:
        """There is one more, or one less."""
        if not self._num[model.name]:
            self._found.setdefault(model.name, []).append((self._since.get(model.name, 0.0), now))
        self._num[model.name] += change
        if not self._num[model.name]:
            self._since[model.name] = now

    def longest(self, one: Seated) -> float:
        """At a stretch, while a turn waited."""
        begin, end = one.turn.at, one.turn.at + one.wait
        return max((min(to, end) - max(since, begin) for since, to in self._found[one.turn.model.name]), default=0.0)


class Server(Protocol):
    """Rules, which are told of all that happens, and act on the room."""

    def arrived(self, turn: Turn) -> None:
        """A turn came."""

    def finished(self, board: Board, turn: Turn) -> None:
        """Its slot is free again."""

    def loaded(self, board: Board, model: Model) -> None:
        """It may take turns."""

    def gone(self, board: Board, model: Model) -> None:
        """Its memory is free."""


class Room:
    """One run of a trace."""

    def __init__(self, names: Sequence[str] = BOARDS, memory_bytes: int | None = None) -> None:
        self.now = 0.0
        size = board_bytes() if memory_bytes is None else memory_bytes
        self.boards = {name: Board(name, size) for name in names}
        self.seated: list[Seated] = []
        self.num_loads = 0
        self.num_swaps = 0
        self.loading_seconds = 0.0
        self.spans: list[tuple[str, str, float, float]] = []
        """Board, model, from when to when it was there."""
        self._server: Server | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._num_left = 0
        self.absent = Gaps()
        """When no board had a model in memory, or began to load it."""
        self.unserved = Gaps()
        """When no board took turns of it."""

    def run(self, trace: Trace, server: Server) -> None:
        """Until every turn has had its slot and left it."""
        self._server, self._num_left = server, len(trace.turns)
        for turn in trace.turns:
            self.at(turn.at, partial(self._arrive, turn))
        while self._events and self._num_left:
            self.now, _, happen = heapq.heappop(self._events)
            if self.now > trace.turns[-1].at + GIVEN_UP_SECONDS:
                raise AssertionError(f"{self._num_left} turns of {trace.name} are never served")
            happen()
        for board in self.boards.values():
            for one in board.loaded.values():
                self.spans.append((board.name, one.model.name, one.since, self.now))

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """Lets it happen then; what is due at one moment happens in the order in which it was asked for."""
        heapq.heappush(self._events, (when, next(self._order), happen))

    # --- What servers do ---------------------------------------------------------------------------------------------

    def load(self, board: Board, model: Model) -> None:
        """Begins to; it takes its seconds, and its memory at once."""
        assert model.name not in board.loaded
        assert board.free_bytes >= model.planned_bytes, "what does not fit is not loaded"
        board.loaded[model.name] = Loaded(model, self.now)
        self.num_loads += 1
        self.loading_seconds += model.load_seconds
        self.absent.change(model, 1, self.now)
        self.at(self.now + model.load_seconds, lambda: self._on_loaded(board, model))

    def unload(self, board: Board, model: Model, *, is_swap: bool = True) -> None:
        """It takes no more turns, finishes those that it has, and goes."""
        one = board.loaded[model.name]
        assert one.is_serving
        assert not one.is_leaving
        one.is_leaving, one.leaving_at = True, self.now
        self.num_swaps += is_swap
        self.unserved.change(model, -1, self.now)
        if not one.num_in_hand:
            self.at(self.now + UNLOAD_SECONDS, lambda: self._on_gone(board, model))

    def start(self, board: Board, turn: Turn) -> None:
        """Gives it a slot."""
        one = board.loaded[turn.model.name]
        assert one.is_serving
        assert board.has_slot
        one.num_in_hand += 1
        one.used_at = self.now
        board.num_running += 1
        self.seated.append(Seated(turn, self.now - turn.at))
        self.at(self.now + turn.seconds, lambda: self._on_finished(board, turn))

    # --- What happens ------------------------------------------------------------------------------------------------

    def _told(self) -> Server:
        assert self._server is not None
        return self._server

    def _arrive(self, turn: Turn) -> None:
        self._told().arrived(turn)

    def _on_loaded(self, board: Board, model: Model) -> None:
        one = board.loaded[model.name]
        self.spans.append((board.name, "", one.since, self.now))
        one.is_serving, one.since = True, self.now
        self.unserved.change(model, 1, self.now)
        self._told().loaded(board, model)

    def _on_finished(self, board: Board, turn: Turn) -> None:
        one = board.loaded[turn.model.name]
        one.num_in_hand -= 1
        one.used_at = self.now
        board.num_running -= 1
        self._num_left -= 1
        if one.is_leaving and not one.num_in_hand:
            self.at(self.now + UNLOAD_SECONDS, lambda: self._on_gone(board, turn.model))
        self._told().finished(board, turn)

    def _on_gone(self, board: Board, model: Model) -> None:
        one = board.loaded.pop(model.name)
        self.absent.change(model, -1, self.now)
        self.spans.append((board.name, model.name, one.since, self.now))
        self._told().gone(board, model)
