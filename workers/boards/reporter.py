"""What a board tells telemetry: how it is every few seconds, and each load and each unloading of a model.

It counts what it tells since its start, for those who read the board's state too. Nothing here waits for the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import points
from broker.messages import FieldValue, Point
from broker.messages.boards import BROKEN, DRAINING, IN_MEMORY, LOADING, SERVING, BoardState, ModelOnBoard
from broker.model_status import progress
from broker.recorder import Recorder
from workers.boards.memory import held_bytes
from workers.boards.models import ModelHere
from workers.boards.view import Step

TELL_SECONDS = 5.0
MAX_POINTS = 2_000
"""What a board keeps while nobody takes its points."""
LAST_POINTS_SECONDS = 1.0
SERVED, FAILED, GIVEN_UP = "served", "failed", "given up"
"""How a load ended."""
STOPS, ENDED = "board stops", "ended"
"""Why a model's worker ended, where no step of the board's said it."""


@dataclass
class Counts:
    """Since the board's start."""

    num_loads: int = 0
    num_failed_loads: int = 0
    num_swaps: int = 0
    """Models unloaded for another."""
    loading_seconds: float = 0.0
    num_waited: int = 0
    """Turns that had waited for their model to be loaded here."""
    waited_seconds: float = 0.0


@dataclass
class _Stay:
    """One worker's of a model, from its start on."""

    step: Step
    began_at: float
    """By the monotonic clock, as all here."""
    served_at: float | None = None
    left_at: float | None = None
    left_for: Step | None = None
    """None where it was not told to go, or because the board stops."""
    num_settled: int = 0
    num_waited: int = 0
    waited_seconds: float = 0.0


class BoardReporter:
    """One board's."""

    def __init__(self, nc: NatsConnection, board: str) -> None:
        self._node = board
        self._recorder = Recorder(nc, board, max_buffered=MAX_POINTS)
        self._stays: dict[str, _Stay] = {}
        self.counts = Counts()

    # --- What happens to models --------------------------------------------------------------------------------------

    def began(self, model: str, step: Step) -> None:
        """Its worker was started."""
        self._stays[model] = _Stay(step, time.monotonic())

    def heard(self, here: ModelHere) -> None:
        """Its worker has said something."""
        stay, told = self._stays[here.model], here.latest
        self.counts.num_waited += told.num_waited - stay.num_waited
        self.counts.waited_seconds += told.waited_seconds - stay.waited_seconds
        stay.num_settled, stay.num_waited, stay.waited_seconds = told.num_settled, told.num_waited, told.waited_seconds

    def serves(self, here: ModelHere) -> float:
        """Its worker takes turns; how many seconds that took."""
        stay = self._stays[here.model]
        stay.served_at = time.monotonic()
        seconds = stay.served_at - stay.began_at
        self.counts.num_loads += 1
        self._loaded(here, stay.step, SERVED, seconds)
        self._event("model loaded", f"{here.model} on {self._node} in {seconds:.1f} s: {stay.step.why}")
        return seconds

    def leaves(self, model: str, step: Step | None) -> None:
        """Its worker was told to go, by a step or because the board stops."""
        stay = self._stays[model]
        if stay.left_at is None:
            stay.left_at, stay.left_for = time.monotonic(), step
            self.counts.num_swaps += step is not None and step.load is not None

    def ended(self, here: ModelHere, reason: str | None) -> None:
        """Its worker is no more; `reason` says why, where that was not asked for."""
        stay, now = self._stays.pop(here.model), time.monotonic()
        if stay.served_at is None:
            outcome = GIVEN_UP if reason is None else FAILED
            self._loaded(here, stay.step, outcome, now - stay.began_at, reason)
            return
        by = stay.left_for
        why = by.why if by is not None else ENDED if stay.left_at is None else STOPS
        made_room_for = (by.load if by is not None else None) or points.NONE
        fields: dict[str, FieldValue | None] = {
            "why": why,
            "made_room_for": made_room_for,
            "stay_seconds": now - stay.served_at,
            "drain_seconds": None if stay.left_at is None else now - stay.left_at,
            "num_settled": stay.num_settled,
            "num_waited": stay.num_waited,
            "reason": reason,
        }
        self._recorder.record(points.MODEL_UNLOAD.point(self._now(), self._tags(here.model), fields))
        room = "" if made_room_for == points.NONE else f", for {made_room_for}"
        self._event("model unloaded", f"{here.model} on {self._node}: {reason or why}{room}")

    def refused(self, here: ModelHere, step: Step, reason: str) -> None:
        """Its worker was not even started."""
        self._loaded(here, step, FAILED, 0.0, reason)

    def _loaded(self, here: ModelHere, step: Step, outcome: str, seconds: float, reason: str | None = None) -> None:
        self.counts.loading_seconds += seconds
        fields: dict[str, FieldValue | None] = {
            "why": step.why,
            "load_seconds": seconds,
            "file_bytes": here.offer.file_bytes,
            "planned_bytes": here.offer.planned_bytes,
            "copy": step.copy,
            "num_unloaded": len(step.unload),
            "reason": reason,
        }
        tags = self._tags(here.model) | {"outcome": outcome}
        self._recorder.record(points.MODEL_LOAD.point(self._now(), tags, fields))
        if outcome == FAILED:
            self.counts.num_failed_loads += 1
            self._event("model failed", f"{here.model} on {self._node}: {reason}")

    # --- How it is ---------------------------------------------------------------------------------------------------

    async def tell(self, state: BoardState, pids: Sequence[int], num_claims_lost: int) -> None:
        """How the board and its models are, with what has happened since the last time; to be called every
        TELL_SECONDS. What the server does not take is kept for the next time."""
        self._record(state, pids, num_claims_lost)
        await self._recorder.flush()

    async def close(self, state: BoardState, num_claims_lost: int) -> None:
        """The same at the end, to a server that takes it soon."""
        self._record(state, (), num_claims_lost)
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await asyncio.wait_for(self._recorder.flush(), LAST_POINTS_SECONDS)

    def _record(self, state: BoardState, pids: Sequence[int], num_claims_lost: int) -> None:
        now = self._now()
        self._recorder.record(self._board(now, state, pids, num_claims_lost))
        for one in state.models:
            self._recorder.record(points.BOARD_MODEL.point(now, self._tags(one.model), _model(one, state)))

    def _board(self, now: int, state: BoardState, pids: Sequence[int], num_claims_lost: int) -> Point | None:
        states = [one.state for one in state.models]
        in_memory = [one for one in state.models if one.state in IN_MEMORY]
        fields = {
            "memory_bytes": state.memory_bytes,
            "planned_bytes": sum(one.planned_bytes for one in in_memory),
            "used_bytes": sum(held_bytes(pid) for pid in pids),
            "kept_bytes": state.kept_bytes,
            "num_models": len(states),
            "num_loaded": states.count(SERVING) + states.count(DRAINING),
            "num_loading": states.count(LOADING),
            "num_broken": states.count(BROKEN),
            "num_in_hand": sum(one.num_in_hand for one in state.models),
            "memory_pressure_ratio": state.memory_pressure,
            "is_throttled": state.is_throttled,
            "num_loads": self.counts.num_loads,
            "num_failed_loads": state.num_failed_loads,
            "num_swaps": state.num_swaps,
            "loading_seconds": state.loading_seconds,
            "num_waited": state.num_waited,
            "waited_seconds": state.waited_seconds,
            "num_claims_lost": num_claims_lost,
            "num_dropped": self._recorder.num_dropped,
        }
        return points.BOARD.point(now, {"node": self._node}, fields)

    def _now(self) -> int:
        return self._recorder.unique(time.time_ns())

    def _tags(self, model: str) -> dict[str, str]:
        return {"node": self._node, "model": model}

    def _event(self, kind: str, text: str) -> None:
        self._recorder.record(points.event(self._now(), kind, text, node=self._node))


def _model(one: ModelOnBoard, state: BoardState) -> dict[str, FieldValue | None]:
    loaded = 1.0 if one.state in (SERVING, DRAINING) else 0.0
    if one.state == LOADING:
        loaded = progress(one, state)[0] or 0.0
    return {
        "state": one.state,
        "loaded_ratio": loaded,
        "planned_bytes": one.planned_bytes,
        "num_in_hand": one.num_in_hand,
        "idle_seconds": max(0.0, state.sent_at - one.used_at) if one.used_at else None,
        "load_seconds": one.load_seconds,
        "pin": one.pin or points.NONE,
    }
