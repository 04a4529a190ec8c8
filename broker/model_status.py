"""What boards do about a model, as whoever asks it is told: it is loaded, or being loaded, or could be, or why not.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeGuard

from msgspec import Struct

from broker.messages.boards import (
    ALWAYS,
    AVAILABLE,
    BROKEN,
    DRAINING,
    IN_MEMORY,
    LOADING,
    NEVER,
    NO_FILE,
    SERVING,
    SHORT_OF_MEMORY,
    TURN_SECONDS,
    BoardState,
    ModelFile,
    ModelOnBoard,
)
from broker.priorities import BATCH, Priority

LOADED = "loaded"
MIB = 1024**2
MAX_SECONDS = 24 * 3600.0
"""What a board says is not taken for longer."""
_RANKS = (LOADED, LOADING, AVAILABLE, BROKEN)


class ModelStatus(Struct, frozen=True):
    """A model that boards may serve: the best that one of them has to offer."""

    model: str
    state: str
    """LOADED, LOADING, AVAILABLE or BROKEN."""
    seconds: float = 0.0
    """About, until its worker takes turns; of BROKEN, until it is tried again."""
    share: float | None = None
    """Of LOADING: how much of it is done, 0 to 1; None where that is not known."""
    reason: str = ""
    """Of BROKEN, and why AVAILABLE is not loaded just now."""
    file_bytes: int = 0
    num_ctx: int = 0
    """0 where its board does not tell."""
    can: tuple[str, ...] | None = None
    """As a worker tells it (`broker.discovery`); None where its board does not."""
    num_slots: int = 0
    """Turns at once; 0 where its board does not tell."""
    turn_seconds: float = TURN_SECONDS
    """What one takes, about."""
    num_waiting: int = 0
    """Interactive turns that are queued, as its board saw it last, …"""
    num_waiting_batch: int = 0
    """… and batch turns."""
    file: ModelFile = NO_FILE

    @property
    def is_servable(self) -> bool:
        """Whether its queue's turns will be taken."""
        return self.state != BROKEN

    def wait_seconds(self, num_ahead: int) -> float:
        """About, until a turn behind so many others would be seated: what they take once its worker is there, too."""
        num_slots = max(1, self.num_slots)
        return _bounded(self.seconds + max(0, num_ahead + 1 - num_slots) * self.turn_seconds / num_slots)

    def expected_wait(self, priority: Priority) -> float:
        """About, of a turn that is queued now: batch waits for all of them, interactive not for batch."""
        return self.wait_seconds(self.num_waiting + (self.num_waiting_batch if priority == BATCH else 0))

    def words(self) -> str:
        """For people: `loading 40 %, about 12 s`."""
        about = f"about {self.seconds:.0f} s"
        if self.state == LOADING:
            return f"loading, {about}" if self.share is None else f"loading {100 * self.share:.0f} %, {about}"
        if self.state == AVAILABLE:
            return f"not loaded yet, {about}" + (f": {self.reason}" if self.reason else "")
        return f"cannot be loaded: {self.reason}" if self.state == BROKEN else self.state


def statuses(boards: Iterable[BoardState]) -> dict[str, ModelStatus]:
    """Of every model that some board may serve, by the model; what no board may load is not among them."""
    found: dict[str, ModelStatus] = {}
    for board in boards:
        resident = _resident(board)
        for one in board.models:
            if (status := _on_board(one, board, resident)) is None:
                continue
            known = found.get(one.model)
            if known is None or _order(status) < _order(known):
                found[one.model] = status
    return dict(sorted(found.items()))


def status_of(model: str, boards: Iterable[BoardState]) -> ModelStatus | None:
    """Of one model; None where no board may serve it."""
    found = (_on_board(one, board, _resident(board)) for board in boards for one in board.models if one.model == model)
    return min((one for one in found if one is not None), key=_order, default=None)


def is_coming(status: ModelStatus | None) -> TypeGuard[ModelStatus]:
    """Whether a board has the model, or will load it for a turn."""
    return status is not None and status.is_servable


def _order(status: ModelStatus) -> tuple[int, bool, float]:
    return _RANKS.index(status.state), bool(status.reason), status.seconds


def _resident(board: BoardState) -> list[ModelOnBoard]:
    return [one for one in board.models if one.state in IN_MEMORY]


def _on_board(one: ModelOnBoard, board: BoardState, resident: Sequence[ModelOnBoard]) -> ModelStatus | None:
    """None where the board will not serve it, or says what only a later release understands."""
    share, reason = None, ""
    is_due = 0 < one.retry_at <= board.sent_at
    if one.state == SERVING:
        state, seconds = LOADED, 0.0
    elif one.state == LOADING:
        state, (share, seconds) = LOADING, progress(one, board)
    elif one.pin == NEVER:
        return None
    elif one.state in (AVAILABLE, DRAINING) or (one.state == BROKEN and (one.is_passing or is_due)):
        # A turn that waits has it tried: whoever were refused then would never have it loaded.
        seconds = max(_until_room(one, board, resident), _bounded(one.retry_at - board.sent_at)) + one.load_seconds
        state, reason = AVAILABLE, _hindrance(one, board)
    elif one.state == BROKEN:
        state, seconds, reason = BROKEN, one.retry_at - board.sent_at, one.reason
    else:
        return None
    return ModelStatus(
        one.model,
        state,
        _bounded(seconds),
        share,
        reason,
        one.file_bytes,
        one.num_ctx,
        one.can,
        one.num_slots,
        TURN_SECONDS if one.turn_seconds is None else _bounded(one.turn_seconds),
        one.num_waiting,
        one.num_waiting_batch,
        one.file,
    )


def _hindrance(one: ModelOnBoard, board: BoardState) -> str:
    """Why a board does not load a model just now that it could load; empty where nothing is in the way."""
    if one.planned_bytes > board.memory_bytes:
        takes, has = one.planned_bytes // MIB, board.memory_bytes // MIB
        return f"it takes {takes} MiB, and {board.board} has {has} MiB just now"
    if board.memory_pressure > SHORT_OF_MEMORY and one.state != DRAINING:
        return f"{board.board} is short of memory"
    return one.reason if one.retry_at > board.sent_at else ""


def progress(one: ModelOnBoard, board: BoardState) -> tuple[float | None, float]:
    """How much of a load is done, 0 to 1, and the seconds until it serves: by what a load took here, and the more of it
    is done, by how quick this one is. Of a board that tells only how much of the file was read: while it is read by the
    rate so far. Both stamps are the board's, so its clock may be wrong."""
    elapsed = _bounded(board.sent_at - one.since)
    if one.loaded is not None:
        return one.loaded, (1 - one.loaded) * ((1 - one.loaded) * one.load_seconds + elapsed)
    left = _bounded(one.load_seconds - elapsed)
    if not one.file_bytes:
        return None, left
    share = min(1.0, one.read_bytes / one.file_bytes)
    return share, elapsed * (1 - share) / share if 0 < share < 1 and elapsed else left


def _bounded(seconds: float) -> float:
    """Also of what is no number: then nothing."""
    return min(max(0.0, seconds), MAX_SECONDS)


def _until_room(wanted: ModelOnBoard, board: BoardState, resident: Sequence[ModelOnBoard]) -> float:
    """Seconds until the board has the memory for a model: a turn of those that are loaded, where none is idle."""
    others = [one for one in resident if one.model != wanted.model]
    free = board.memory_bytes - sum(one.planned_bytes for one in others)
    movable = [one for one in others if one.pin != ALWAYS]
    idle = sum(one.planned_bytes for one in movable if one.state == SERVING and not one.num_in_hand)
    if wanted.planned_bytes <= free + idle:
        return 0.0
    return max((one.turn_seconds or 0.0 for one in movable if one.num_in_hand), default=0.0)
