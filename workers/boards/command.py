"""A board's process: what is its alone is locked, files are looked at, then it runs until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import connection, jetstream, placing, subjects
from broker.connection import Address, close, connect
from broker.errors import NotReady, PublishError, ServerError, TurnpikeError
from broker.health import either, serve_health, told
from broker.locks import Lock
from broker.process import ended_by_a_signal, keep_the_heap_small
from broker.retrying import retried
from broker.topology import RETRY_SECONDS
from workers.boards.board import Board, Start, StartSpare
from workers.boards.child import Child
from workers.boards.health import PATH
from workers.boards.load_times import LoadTimes
from workers.boards.memory import board_bytes, memory_pressure
from workers.boards.offers import PARKED_SHARE, Offer, Offers
from workers.boards.parked import Parked, default_folder
from workers.boards.settings import BoardSettings, as_environment, worker_settings
from workers.boards.spare import SPARE_BYTES
from workers.boards.supervisor import Supervisor
from workers.engine.power import Power
from workers.reporting.node import NodeListener

SERVER_SECONDS = 60.0
"""A worker that starts while the server is away waits so long for it: its board lives on, and others' turns wait."""

log = logging.getLogger(__name__)


class NothingToLoad(TurnpikeError):
    """Nothing that is locked is on this board; `left_out` says what is locked, and which files are missing."""

    def __init__(self, board: str, left_out: Mapping[str, str]) -> None:
        self.board = board
        self.left_out = left_out
        listed = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        super().__init__(f"the board {board} has no model: {listed or 'the lock file has none: turnpike models lock'}")


async def serve(address: Address, settings: BoardSettings, stop: asyncio.Event, worker: Sequence[str | Path]) -> int:
    """Runs this node's board until `stop`. `worker` are the words that start a worker. Raises InUse where the node has
    a board already, NothingToLoad, OtherBoard and what makes it impossible to begin."""
    keep_the_heap_small()
    name, folder = settings.board_name, Path(settings.data_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with await asyncio.to_thread(_lock, folder, name, settings.wait_seconds, stop) as lock:
        memory_bytes = board_bytes((), settings.memory_bytes) - (SPARE_BYTES if settings.spare else 0)
        offers = Offers(settings)
        found = await asyncio.to_thread(offers.look, memory_bytes)
        _tell(name, memory_bytes, found, offers.left_out)
        for model in sorted(set(settings.pin) - found.keys()):
            log.error("! %s is pinned here, and is none of the models of this board", model)
        nc = await connect(address, name=f"turnpike-board-{name}")
        try:
            await _require_bucket(nc, settings.wait_seconds)
            await _require_rights(nc, name, address.user)
            await _let_go(nc, name)
            async with _machine(nc, name, settings) as machine:
                most = memory_bytes // PARKED_SHARE
                parked = _parked(nc, name, settings, most)
                command = (*worker, *(parked.worker_flags if parked is not None else ()))
                board = Board(
                    name=name,
                    rules=settings.rules,
                    pins=frozenset(settings.pin),
                    machine=machine,
                    look=lambda: offers.look(memory_bytes),
                    start=_starter(settings, command, lock),
                    load_times=LoadTimes(folder / "loads.json"),
                    parked=parked,
                    max_parked_bytes=most,
                    start_spare=_spare_starter(settings, command, lock),
                    keeps_spare=settings.spare,
                )
                supervisor = Supervisor(nc, board, found)
                async with _health(nc, supervisor, settings):
                    await supervisor.run(stop)
        finally:
            await close(nc)
    return 0


def _lock(folder: Path, name: str, wait_seconds: float, stop: asyncio.Event) -> Lock:
    """Held with the workers: nobody plans this node's memory anew while one of them is left. Blocks; raises InUse."""

    def go_on() -> None:
        if stop.is_set():
            raise TurnpikeError(f"stopped before the board {name} was free")

    what, advice = f"the board {name}", "end that one first, or give this one another --node"
    path = folder / f"board-{name}.lock"
    return Lock(path, what, advice=advice, wait_seconds=wait_seconds, while_waiting=go_on)


def _tell(name: str, memory_bytes: int, found: Mapping[str, Offer], left_out: Mapping[str, str]) -> None:
    """What there is, and what is left out and why. What cannot be loaded is told to all who ask for it, too, while the
    board runs: another file may come. Raises NothingToLoad."""
    if not found:
        raise NothingToLoad(name, left_out)
    reasons = {model: offer.reason for model, offer in found.items() if offer.plan is None}
    for model, reason in reasons.items():
        log.error("! %s: %s", model, reason)
    for model, reason in left_out.items():
        log.info("left out model=%s: %s", model, reason)
    log.info("board=%s memory_bytes=%d models=%s", name, memory_bytes, ",".join(sorted(found.keys() - reasons.keys())))


async def _require_bucket(nc: NatsConnection, wait: float) -> None:
    """Raises NotReady, after `wait` seconds of looking again, and ServerError."""

    async def look() -> None:
        if await jetstream.stream(nc, subjects.KV_PLACEMENT) is None:
            raise NotReady(f"stream {subjects.KV_PLACEMENT}")

    with ended_by_a_signal():
        await retried(look, after=ServerError, delay=RETRY_SECONDS, patience=wait)


async def _require_rights(nc: NatsConnection, board: str, user: str) -> None:
    """Forgets what a board of this name said in a life before; raises TurnpikeError where this user may not."""
    try:
        await placing.withdraw(nc, board)
    except PublishError as error:
        advice = "`turnpike user add NAME --role board` makes a user that may"
        raise TurnpikeError(f"the user {user} cannot speak for the board {board}: {error}: {advice}") from None


async def _let_go(nc: NatsConnection, board: str) -> None:
    """Of what a board of this name had claimed in a life before, which no worker has outlived: it would expire."""
    with contextlib.suppress(ServerError, PublishError):
        for claim in (await placing.read(nc)).claims.values():
            if claim.board == board:
                await placing.release(nc, claim)


def _parked(nc: NatsConnection, board: str, settings: BoardSettings, max_bytes: int) -> Parked | None:
    """Conversations of models that are not loaded; None where nothing can be kept, or is to be, which is told."""
    if settings.park_bytes == 0:  # what a worker has no RAM for it could not take up again either
        log.info("no conversations are kept over swaps: --park-bytes is 0")
        return None
    named = settings.board_dir
    folder = default_folder(board) if named is None else Path(named).expanduser()
    if folder is None:
        return None
    try:
        return Parked(nc, board, folder, max_bytes)
    except TurnpikeError as error:
        log.warning("no conversations are kept over swaps: %s", error)
        return None


class _Node:
    """What a board asks of its node: /proc and the control group, and what the node's sidecar tells."""

    def __init__(self, listener: NodeListener, most: int | None) -> None:
        self._listener = listener
        self._most = most

    def memory_bytes(self, pids: Sequence[int], kept: int) -> int:
        return board_bytes(pids, self._most, kept)

    def memory_pressure(self) -> float:
        return memory_pressure()

    def is_throttled(self) -> bool:
        self._listener.forget_old()
        return bool(self._listener.state.is_throttled)


@asynccontextmanager
async def _machine(nc: NatsConnection, name: str, settings: BoardSettings) -> AsyncIterator[_Node]:
    listener = NodeListener(nc, name, Power())
    await listener.start()
    try:
        yield _Node(listener, settings.memory_bytes)
    finally:
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await listener.stop()


def _starter(settings: BoardSettings, worker: Sequence[str | Path], lock: Lock) -> Start:
    """Starts workers with the board's own settings, but for what is planned for all of them together."""

    async def start(offer: Offer, heard: Callable[[], None]) -> Child:
        assert offer.plan is not None
        environment = _environment(settings, offer.model, park_bytes=offer.plan.offload_cache)
        return await Child.start(offer.model, worker, environment, heard, kept=(lock.fileno(),))

    return start


def _spare_starter(settings: BoardSettings, worker: Sequence[str | Path], lock: Lock) -> StartSpare:
    """Starts workers that are told their model later."""

    async def start(heard: Callable[[], None]) -> Child:
        return await Child.start("", worker, _environment(settings, None), heard, kept=(lock.fileno(),))

    return start


def _environment(settings: BoardSettings, model: str | None, **more: int) -> Mapping[str, str | None]:
    """What a worker is told by variables, of what is the board's and not its own."""
    wait_seconds = max(settings.wait_seconds, SERVER_SECONDS)
    return as_environment(worker_settings(settings, model, health_port=None, wait_seconds=wait_seconds, **more))


def _health(nc: NatsConnection, supervisor: Supervisor, settings: BoardSettings) -> AbstractAsyncContextManager[object]:
    """Answers probes while the board runs, where a port was given: it lives while it comes round, whatever becomes of a
    model; what becomes of each it tells besides."""
    if settings.health_port is None:
        return contextlib.nullcontext()
    live = either(lambda: connection.trouble(nc), supervisor.rounds.trouble)
    return serve_health(
        settings.health_port,
        live=live,
        ready=lambda: None if nc.is_connected else "not connected to NATS",
        reports={PATH: lambda: supervisor.health(told(live))},
    )
