"""The workers that a gateway has seen lately, which of them have left, and what boards do about models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from broker import availability
from broker.answer import Answer
from broker.discovery import DRAINING, WorkerInfo
from broker.messages.boards import BoardState
from broker.model_status import ModelStatus, is_coming, statuses

STALE_SECONDS = 10.0
"""A worker that has not answered for so long is not there; a busy board's answers come late."""


class Seen:
    """By their names. One that says that it leaves is not chosen any more from that moment on."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[WorkerInfo, float]] = {}
        self._left: dict[str, float] = {}
        self._boards: dict[str, ModelStatus] = {}
        self._board_states: tuple[BoardState, ...] = ()
        self._boards_at = -STALE_SECONDS
        self._has_looked = asyncio.Event()

    @property
    def workers(self) -> list[WorkerInfo]:
        """Those that are there as of now."""
        return [one for one, _ in self._found.values()]

    @property
    def boards(self) -> dict[str, ModelStatus]:
        """What boards do about each model that one of them may serve, as far as is known."""
        return self._boards if time.monotonic() - self._boards_at < STALE_SECONDS else {}

    @property
    def board_states(self) -> tuple[BoardState, ...]:
        """What each of them says, as far as is known."""
        return self._board_states if time.monotonic() - self._boards_at < STALE_SECONDS else ()

    def note_boards(self, boards: Iterable[BoardState]) -> None:
        """What all boards have said as of now."""
        self._board_states = tuple(boards)
        self._boards, self._boards_at = statuses(self._board_states), time.monotonic()

    def choices(self) -> list[str]:
        """The models that a turn can be for: those that are served, and those that a board may load."""
        return availability.askable(self.workers, self.boards.values())

    async def once(self) -> None:
        """Comes back when it was looked for workers at least once."""
        await self._has_looked.wait()

    def get(self, name: str) -> WorkerInfo | None:
        """The worker of that name; None where it is not there."""
        found = self._found.get(name)
        return found[0] if found is not None else None

    def note(self, answers: Iterable[WorkerInfo], asked_at: float) -> None:
        """What came of asking at that instant of the monotonic clock; who has not answered for long is forgotten."""
        now = time.monotonic()
        self._left = {name: at for name, at in self._left.items() if now - at < STALE_SECONDS}
        for one in answers:
            # An answer from before a worker left must not bring it back.
            if not one.is_serving or self._left.get(one.worker, asked_at) <= asked_at:
                self._found[one.worker] = (one, now)
        self._found = {name: found for name, found in self._found.items() if now - found[1] < STALE_SECONDS}
        self._has_looked.set()

    def leave(self, name: str) -> None:
        """That worker takes no turns any more; it is known as long as it finishes those that it has."""
        now = time.monotonic()
        self._left[name] = now
        if found := self._found.get(name):
            load = msgspec.structs.replace(found[0].load, state=DRAINING)
            self._found[name] = (msgspec.structs.replace(found[0], load=load), found[1])

    def can_all(self, model: str, what: str) -> bool:
        """Whether all who serve the model can that, as far as they tell: any of them may take a turn. Where nobody
        does, whether the worker could that a board would start."""
        if not self.num_serving(model) and (status := self.boards.get(model)) is not None:
            return status.can is None or what in status.can
        return all(one.does(what) for one in self.workers if one.model == model and one.is_serving)

    def num_serving(self, model: str) -> int:
        """How many take turns for it."""
        return sum(one.model == model and one.is_serving for one in self.workers)

    def num_able(self, model: str, *, has_begun: bool) -> int:
        """How many may answer a turn: those that serve its model, and one that a board would load; once it was begun
        also those that finish what they have."""
        status = self.boards.get(model)
        num_coming = int(is_coming(status))
        return max(num_coming, sum(one.model == model and (has_begun or one.is_serving) for one in self.workers))

    def details(self, answer: Answer) -> dict[str, Any]:
        """What the page shows of who answered."""
        done = answer.done
        found: dict[str, Any] = {"worker": done.worker, "timings": msgspec.to_builtins(done.timings)}
        found |= {"usage": msgspec.to_builtins(done.usage), "finish_reason": done.finish_reason}
        if worker := self.get(done.worker):
            found |= {"node": worker.node, "celsius": worker.load.celsius, "is_throttled": worker.load.is_throttled}
        return found
