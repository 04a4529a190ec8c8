"""Other servers' rules, as their code has them (read in 2026), one instance a board and a proxy before them.

None of them knows of other boards. `Ollama` is `server/sched.go`, `LlamaSwap` is llama-swap's `internal/router` with
one group that swaps, `Router` is llama-server's `tools/server/server-models.cpp`. What they have no word for (a proxy
before several of them) is what people put there; each gets the better one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.placing.room import Board, Loaded, Room
from benchmarks.placing.traces import Model, Turn, models


class Instance(ABC):
    """A server on a board: hands turns to their model's process, where they wait for a slot in order of arrival."""

    def __init__(self, room: Room, board: Board) -> None:
        self.room, self.board = room, board
        self.num_outstanding = 0
        self.num_asked: Counter[str] = Counter()
        """Of each model, turns that are here and not finished."""
        self._handed: Counter[str] = Counter()
        self._ready: deque[Turn] = deque()

    def ask(self, turn: Turn) -> None:
        """A turn comes here."""
        self.num_outstanding += 1
        self.num_asked[turn.model.name] += 1
        self.take(turn)

    @abstractmethod
    def take(self, turn: Turn) -> None:
        """By the server's own rules."""

    def finished(self, turn: Turn) -> None:
        """Its slot is free, and the next one's turn."""
        self.num_outstanding -= 1
        self.num_asked[turn.model.name] -= 1
        self._handed[turn.model.name] -= 1
        self._start()

    @abstractmethod
    def loaded(self, model: Model) -> None:
        """It may take turns."""

    @abstractmethod
    def gone(self, model: Model) -> None:
        """Its memory is free."""

    def hand(self, turn: Turn) -> None:
        """To the process of its model, which is ready."""
        self._handed[turn.model.name] += 1
        self._ready.append(turn)
        self._start()

    def is_idle(self, one: Loaded) -> bool:
        """Whether it may go: it is ready, and has nothing in hand."""
        return one.is_serving and not one.is_leaving and not self._handed[one.model.name]

    def _start(self) -> None:
        while self._ready and self.board.has_slot:
            self.room.start(self.board, self._ready.popleft())


class Ollama(Instance):
    """One request after the other is given a runner; while one waits for another model to go, all behind it wait too.
    An idle runner goes first (theirs by keep-alive, alike for all: here by last use), after five minutes by itself."""

    KEEP_ALIVE_SECONDS = 300.0
    MAX_LOADED = 3
    """Its default for a machine without a GPU."""

    def __init__(self, room: Room, board: Board) -> None:
        super().__init__(room, board)
        self._pending: deque[Turn] = deque()
        self._first: dict[str, Turn] = {}
        """Whose request loads a model."""
        self._expiring: str | None = None

    def take(self, turn: Turn) -> None:
        self._pending.append(turn)
        self._look()

    def loaded(self, model: Model) -> None:
        self.hand(self._first.pop(model.name))
        self._look()

    def gone(self, model: Model) -> None:
        if self._expiring == model.name:
            self._expiring = None
        self._look()

    def finished(self, turn: Turn) -> None:
        super().finished(turn)
        one = self.board.loaded[turn.model.name]
        if self.is_idle(one):
            if self._expiring == turn.model.name:
                self.room.unload(self.board, turn.model)
            else:
                self.room.at(self.room.now + self.KEEP_ALIVE_SECONDS, lambda: self._expire(one))
        self._look()

    def _expire(self, one: Loaded) -> None:
        is_here = self.board.loaded.get(one.model.name) is one
        if is_here and self.is_idle(one) and self.room.now - one.used_at >= self.KEEP_ALIVE_SECONDS:
            self.room.unload(self.board, one.model, is_swap=False)

    def _look(self) -> None:
        while self._pending and self._expiring is None:
            turn = self._pending[0]
            one = self.board.loaded.get(turn.model.name)
            if one is not None:
                if not one.is_serving or one.is_leaving:
                    return
                self.hand(self._pending.popleft())
                continue
            if self.board.free_bytes >= turn.model.planned_bytes and len(self.board.loaded) < self.MAX_LOADED:
                self._first[turn.model.name] = self._pending.popleft()
                self.room.load(self.board, turn.model)
                continue
            staying = [one for one in self.board.loaded.values() if not one.is_leaving]
            if not staying:
                return
            victim = min(staying, key=lambda one: (not self.is_idle(one), one.used_at))
            self._expiring = victim.model.name
            if self.is_idle(victim):
                self.room.unload(self.board, victim.model)


class LlamaSwap(Instance):
    """One model at a time. Requests for the one that runs are served at once; others wait until nothing is in flight,
    and the first of them says which one is next, together with all that want the same."""

    def __init__(self, room: Room, board: Board) -> None:
        super().__init__(room, board)
        self._queued: list[Turn] = []
        self._next: Model | None = None
        self._waiters: list[Turn] = []

    def take(self, turn: Turn) -> None:
        if not self._decide(turn):
            self._queued.append(turn)

    def loaded(self, model: Model) -> None:
        waiters, self._waiters, self._next = self._waiters, [], None
        for turn in waiters:
            self.hand(turn)
        self._drain()

    def gone(self, model: Model) -> None:
        if self._next is not None and not self.board.loaded:
            self.room.load(self.board, self._next)

    def finished(self, turn: Turn) -> None:
        super().finished(turn)
        if not self._handed[turn.model.name]:
            self._drain()

    def _drain(self) -> None:
        queued, self._queued = self._queued, []
        self._queued = [turn for turn in queued if not self._decide(turn)]

    def _decide(self, turn: Turn) -> bool:
        if self._next is not None:
            if self._next is turn.model:
                self._waiters.append(turn)
            return self._next is turn.model
        running = list(self.board.loaded.values())
        if any(one.model is turn.model for one in running):
            self.hand(turn)
            return True
        if not all(self.is_idle(one) for one in running):
            return False
        self._next, self._waiters = turn.model, [turn]
        for one in running:
            self.room.unload(self.board, one.model)
        if not running:
            self.room.load(self.board, turn.model)
        return True


@dataclass
class _Entry:
    """A model that is waited for, and by whom."""

    model: Model
    waiters: list[Turn] = field(default_factory=list)
    is_loading: bool = False


class Router(Instance):
    """So many models at once, by count. Models that are waited for stand in line; an idle one, the least recently used,
    goes for them. Requests for a model that is ready are served at once."""

    def __init__(self, room: Room, board: Board) -> None:
        super().__init__(room, board)
        largest = max(one.planned_bytes for one in models())
        self._max_models = max(1, board.memory_bytes // largest)
        self._line: list[_Entry] = []

    def take(self, turn: Turn) -> None:
        one = self.board.loaded.get(turn.model.name)
        if one is not None and one.is_serving and not one.is_leaving:
            self.hand(turn)
            return
        entry = next((entry for entry in self._line if entry.model is turn.model), None)
        if entry is None:
            entry = _Entry(turn.model)
            self._line.append(entry)
        entry.waiters.append(turn)
        self._look()

    def loaded(self, model: Model) -> None:
        entry = self._line.pop(0)
        assert entry.model is model
        for turn in entry.waiters:
            self.hand(turn)
        self._look()

    def gone(self, model: Model) -> None:
        self._look()

    def finished(self, turn: Turn) -> None:
        super().finished(turn)
        if not self._handed[turn.model.name]:
            self._look()

    def _look(self) -> None:
        if not self._line:
            return
        running = list(self.board.loaded.values())
        num_free = self._max_models - len(running) + sum(one.is_leaving for one in running)
        num_needed = sum(not entry.is_loading for entry in self._line)
        wanted = [entry.model for entry in self._line]
        idle = sorted((one for one in running if self.is_idle(one)), key=lambda one: one.used_at)
        for one in [one for one in idle if one.model not in wanted][: max(0, num_needed - num_free)]:
            self.room.unload(self.board, one.model)
        first = self._line[0]
        is_gone = first.model.name not in self.board.loaded
        if not first.is_loading and is_gone and len(self.board.loaded) < self._max_models:
            first.is_loading = True
            self.room.load(self.board, first.model)


# --- What is put before them -----------------------------------------------------------------------------------------

Front = Callable[[Turn, Sequence[Instance]], Instance]


def least_busy(turn: Turn, instances: Sequence[Instance]) -> Instance:
    """Least connections, as nginx and HAProxy have it."""
    return min(instances, key=lambda one: (one.num_outstanding, one.board.name))


def by_model(turn: Turn, instances: Sequence[Instance]) -> Instance:
    """Each model has its board; the one that is asked for most shares with the one that is asked for least."""
    rank, count = models().index(turn.model), len(instances)
    lap, place = divmod(rank, count)
    return instances[place if lap % 2 == 0 else count - 1 - place]


def informed(turn: Turn, instances: Sequence[Instance]) -> Instance:
    """A proxy that knows what is loaded and waited for where: the least busy one with the model, else of all."""
    name = turn.model.name
    having = [one for one in instances if name in one.board.loaded or one.num_asked[name]]
    return least_busy(turn, having or instances)


class Several:
    """An instance on every board, and what is before them."""

    def __init__(self, room: Room, make: Callable[[Room, Board], Instance], front: Front) -> None:
        self._front = front
        self._instances = {name: make(room, board) for name, board in room.boards.items()}

    def arrived(self, turn: Turn) -> None:
        """To one of them, where it stays."""
        self._front(turn, list(self._instances.values())).ask(turn)

    def finished(self, board: Board, turn: Turn) -> None:
        """Told to its instance."""
        self._instances[board.name].finished(turn)

    def loaded(self, board: Board, model: Model) -> None:
        """Told to its instance."""
        self._instances[board.name].loaded(model)

    def gone(self, board: Board, model: Model) -> None:
        """Told to its instance."""
        self._instances[board.name].gone(model)
