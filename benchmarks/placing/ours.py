"""Turnpike in the room: a queue for each model, boards that look once a second and act by the placement policy.

All boards decide on the same view, as none hears of what the others are about to do; claims then hold one of two back.
Where they say how they are only now and then, each decides on what it has heard.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping

from msgspec.structs import replace

from benchmarks.placing.room import Board, Room
from benchmarks.placing.traces import NUM_SLOTS, Model, Turn, models
from broker.messages.boards import AVAILABLE, DRAINING, LOADING, SERVING, BoardState, Claim, ModelOnBoard
from workers.boards.placement import DEFAULT_RULES, Rules, Step, View, Waiting, all_steps, next_step
from workers.turns.recent import RecentTurns

LOOK_SECONDS = 1.0


class Queue:
    """A model's: interactive turns before batch turns, each in order."""

    def __init__(self) -> None:
        self.interactive: deque[Turn] = deque()
        self.batch: deque[Turn] = deque()

    def put(self, turn: Turn) -> None:
        """At the end of its class."""
        (self.interactive if turn.is_interactive else self.batch).append(turn)

    def take(self) -> Turn | None:
        """The next one."""
        return self.interactive.popleft() if self.interactive else self.batch.popleft() if self.batch else None

    def __bool__(self) -> bool:
        return bool(self.interactive or self.batch)

    def waiting(self, now: float) -> Waiting:
        """As boards see it."""
        ages = [now - line[0].at if line else 0.0 for line in (self.interactive, self.batch)]
        return Waiting(len(self.interactive), len(self.batch), *ages)


class Turnpike:
    """Our rules."""

    def __init__(
        self,
        room: Room,
        rules: Rules = DEFAULT_RULES,
        say_seconds: float = 0.0,
        pins: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        """`pins` are by board and model."""
        self._room, self._rules, self._say_seconds, self._pins = room, rules, say_seconds, pins or {}
        self._said: dict[str, tuple[float, BoardState]] = {}
        """What each board said last, and when."""
        self.num_refused = 0
        """Claims that another board had."""
        self._queues = {one.name: Queue() for one in models()}
        self._models = {one.name: one for one in models()}
        self._claims: dict[tuple[str, int], Claim] = {}
        self._coming: dict[str, Model] = {}
        """By board, what it has claimed and not begun to load."""
        self._left: dict[tuple[str, str], tuple[float, float]] = {}
        """Of each board and model that it had: when it left, and when it was last used."""
        self._recent: dict[tuple[str, str], RecentTurns] = defaultdict(RecentTurns)
        """Of each board and model, since it was loaded there last."""
        self._told: dict[tuple[str, str], tuple[float, float | None]] = {}
        """What a turn took lately, and the longest may take."""
        self._states: dict[str, BoardState] = {}
        self._is_looking = False

    def arrived(self, turn: Turn) -> None:
        """Into its queue."""
        self._queues[turn.model.name].put(turn)
        boards = sorted(self._room.boards.values(), key=lambda one: (one.num_running, one.name))
        for board in boards:
            self._pull(board)
        if not self._is_looking:
            self._is_looking = True
            self._room.at(self._room.now + LOOK_SECONDS, self._look)

    def finished(self, board: Board, turn: Turn) -> None:
        """The next one."""
        key = board.name, turn.model.name
        self._recent[key].took(turn.seconds)
        self._told[key] = self._recent[key].mean_seconds, self._recent[key].longest_expected_seconds
        self._states.pop(board.name, None)
        self._pull(board)

    def loaded(self, board: Board, model: Model) -> None:
        """Its worker begins to pull."""
        self._recent.pop((board.name, model.name), None)
        self._states.pop(board.name, None)
        self._pull(board)

    def gone(self, board: Board, model: Model) -> None:
        """What it made room for may load."""
        self._states.pop(board.name, None)
        self._left[board.name, model.name] = (self._room.now, self._room.now)
        self._load_if_there_is_room(board)

    def _pull(self, board: Board) -> None:
        while board.has_slot:
            serving = [one.model.name for one in board.loaded.values() if one.is_serving and not one.is_leaving]
            queues = [queue for name in serving if (queue := self._queues[name])]
            if not queues:
                return
            urgent = [queue for queue in queues if queue.interactive]
            chosen = min(urgent, key=lambda one: one.interactive[0].at) if urgent else min(queues, key=_oldest_batch)
            turn = chosen.take()
            assert turn is not None
            self._states.pop(board.name, None)
            self._room.start(board, turn)

    # --- Boards ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        waiting = {name: queue.waiting(self._room.now) for name, queue in self._queues.items() if queue}
        if not waiting:
            self._is_looking = False  # nothing is asked for: the next turn wakes them
            return
        if self._say_seconds:
            for board in self._room.boards.values():
                self._look_alone(board, waiting)
        else:
            states = tuple(self._state(board) for board in self._room.boards.values())
            view = View(self._room.now, states, waiting, dict(self._claims))
            for name, step in all_steps(view, self._rules).items():
                self._act(self._room.boards[name], step)
        self._room.at(self._room.now + LOOK_SECONDS, self._look)

    def _look_alone(self, board: Board, waiting: dict[str, Waiting]) -> None:
        """It knows itself, and of others what they said, claims included."""
        own, now = self._state(board), self._room.now
        said_at, _ = self._said.setdefault(board.name, (now, own))
        if now - said_at >= self._say_seconds:
            self._said[board.name] = now, own
        others = tuple(state for name, (_, state) in self._said.items() if name != board.name)
        if board.name not in self._coming:
            self._act(board, next_step(View(now, (own, *others), waiting, {}), board.name, self._rules))

    def _act(self, board: Board, step: Step) -> None:
        if step.load is not None:
            holder = self._claims.get((step.load, step.copy))
            if holder is not None:
                self.num_refused += 1
                return
            self._claims[step.load, step.copy] = Claim(board.name, step.load, step.copy)
            self._coming[board.name] = self._models[step.load]
        for name in step.unload:
            self._room.unload(board, self._models[name])
            self._release(board, name)
        self._states.pop(board.name, None)
        self._load_if_there_is_room(board)

    def _release(self, board: Board, model: str) -> None:
        for key, claim in list(self._claims.items()):
            if claim.board == board.name and claim.model == model:
                del self._claims[key]

    def _load_if_there_is_room(self, board: Board) -> None:
        model = self._coming.get(board.name)
        if model is not None and board.free_bytes >= model.planned_bytes:
            del self._coming[board.name]
            self._room.load(board, model)

    def _state(self, board: Board) -> BoardState:
        """As its supervisor would say it; made anew only where something has changed."""
        if board.name not in self._states:
            entries = tuple(self._entry(board, one) for one in models())
            self._states[board.name] = BoardState(board.name, board.memory_bytes, 4, entries, sent_at=self._room.now)
        return replace(self._states[board.name], sent_at=self._room.now)

    def _entry(self, board: Board, model: Model) -> ModelOnBoard:
        loaded = board.loaded.get(model.name)
        since, used_at = self._left.get((board.name, model.name), (0.0, 0.0))
        state, num_in_hand = AVAILABLE, 0
        usual, longest = self._told.get((board.name, model.name), (None, None))
        if loaded is not None:
            state = DRAINING if loaded.is_leaving else SERVING if loaded.is_serving else LOADING
            since = loaded.leaving_at if loaded.is_leaving else loaded.since
            used_at, num_in_hand = loaded.used_at, loaded.num_in_hand
        return ModelOnBoard(
            model.name,
            state,
            model.planned_bytes,
            model.load_seconds,
            since=since,
            used_at=used_at,
            num_in_hand=num_in_hand,
            pin=self._pins.get((board.name, model.name)),
            turn_seconds=usual,
            longest_turn_seconds=longest,
            num_slots=NUM_SLOTS,
        )


def _oldest_batch(queue: Queue) -> float:
    return queue.batch[0].at
