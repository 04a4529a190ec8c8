"""`turnpike models load|unload|pin`: what an operator wants of a model, said to the boards that have it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from broker import model_status, placing
from broker.client import Client
from broker.connection import Address
from broker.errors import TurnpikeError
from broker.messages.boards import ALWAYS, BROKEN, LOADING, NEVER, BoardState, ModelOnBoard, Order
from broker.model_status import LOADED
from broker.placing import Placement


class OrderError(TurnpikeError):
    """An order that nobody could follow; says why."""


async def load(address: Address, model: str, board: str | None = None) -> int:
    """Has a board load a model: the one that is named, else where it would be quickest. Raises OrderError,
    PublishError, ServerError."""
    async with Client(address) as client:
        placement = await placing.read(client.nc)
        boards = _having(placement, model, board)
        status, where = min((_loadable(model, one), one.board) for one in boards)
        rank, seconds, words = status
        if rank < 2:  # it is there, or on its way
            print(f"{where}: {model} {words}")  # noqa: T201
            return 0
        if rank > 2:
            raise OrderError(f"no board can load {model!r}: {where}: {words}")
        await _give(client, placement, model, where, load=True)
        print(f"{where}: {model} is to be loaded, about {seconds:.0f} s")  # noqa: T201
    return 0


async def unload(address: Address, model: str, board: str | None = None) -> int:
    """Has a board, or all of them, drain a model and forget it. Raises OrderError, PublishError, ServerError."""
    async with Client(address) as client:
        placement = await placing.read(client.nc)
        boards = _having(placement, model, board)
        pinned = [one.board for one in boards if _of(one, model).pin == ALWAYS]
        if pinned:
            raise OrderError(
                f"{model!r} is pinned on {', '.join(pinned)}: `turnpike models pin {model} none` lets go of it"
            )
        await _give(client, placement, model, board, load=False)
        print(f"{', '.join(one.board for one in boards)}: {model} is to be unloaded")  # noqa: T201
    return 0


async def pin(address: Address, model: str, how: str | None, board: str | None = None) -> int:
    """Pins a model to a board, or to all that have it: ALWAYS loaded, NEVER loaded, or None, as the boards see fit.
    Raises OrderError, PublishError, ServerError."""
    async with Client(address) as client:
        placement = await placing.read(client.nc)
        boards = _having(placement, model, board)
        await placing.order(client.nc, Order(model, board, pin=how, sent_at=time.time()))
        said = {ALWAYS: "always loaded", NEVER: "never loaded"}.get(how or "", "loaded as the queue wants it")
        print(f"{', '.join(one.board for one in boards)}: {model} is {said}")  # noqa: T201
    return 0


async def _give(client: Client, placement: Placement, model: str, board: str | None, *, load: bool) -> None:
    """Once; what was said of a pin stands."""
    known = placement.orders.get((model, board))
    pinned = known.pin if known is not None else None
    await placing.order(client.nc, Order(model, board, pin=pinned, load=load, sent_at=time.time()))


def _having(placement: Placement, model: str, board: str | None) -> Sequence[BoardState]:
    """The boards that have the model, or the one that is named. Raises OrderError, with what there is instead."""
    if not placement.boards:
        raise OrderError("no board has announced itself: they are started by `turnpike board`")
    if board is not None and board not in (names := [one.board for one in placement.boards]):
        raise OrderError(f"there is no board {board!r}; these are: {', '.join(names)}")
    boards = [one for one in placement.boards if board in (None, one.board)]
    having = [one for one in boards if any(known.model == model for known in one.models)]
    if not having:
        models = sorted({known.model for one in boards for known in one.models})
        where = f"board {board!r}" if board is not None else "no board"
        has = "does not have" if board is not None else "has"
        others = f"; there are: {', '.join(models)}" if models else ""
        raise OrderError(f"{where} {has} model {model!r}{others}")
    return having


def _of(board: BoardState, model: str) -> ModelOnBoard:
    return next(one for one in board.models if one.model == model)


def _loadable(model: str, board: BoardState) -> tuple[int, float, str]:
    """What is best of several comes first: loaded, loading, free to be loaded, broken, pinned."""
    if (status := model_status.status_of(model, [board])) is None:
        return 4, 0.0, "is never to be loaded there, as it is pinned or its board is of a later release"
    rank = {LOADED: 0, LOADING: 1, BROKEN: 3}.get(status.state, 2)
    return rank, status.seconds, status.words()
