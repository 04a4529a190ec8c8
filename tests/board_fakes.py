"""A board on a real server whose workers are processes without a model, which do as they are told.

    python -m tests.board_fakes CREDENTIALS FOLDER NAME EXPIRES MODEL=MANNER ...

is one in a process of its own, for tests that kill it: with memory for one of its models, and what it says and claims
expires after so many seconds.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg

from broker import codec, placing, subjects
from broker.accounts import BOARD, REAPER, read_credentials, write_credentials
from broker.connection import Address, close, connect
from broker.messages import Point
from broker.messages.boards import BoardState, ModelOnBoard
from broker.placing import Placement, Watch
from broker.points import Measurement
from broker.process import run, spawn
from broker.reaper import reap
from broker.server import EmbeddedServer
from tests.support import ROOT
from workers.boards import presence, supervisor
from workers.boards.board import Board, Machine
from workers.boards.child import SILENT_SECONDS, Child
from workers.boards.load_times import LoadTimes
from workers.boards.offers import Offer
from workers.boards.supervisor import Supervisor
from workers.boards.view import Rules
from workers.machine.memory import MemoryPlan

MIB = 2**20
SECONDS = 20.0
EAGER = Rules(interactive_seconds=0.0, residency_seconds=0.0, residency_loads=0.0, copy_loads=1e9)
"""What waits is loaded at once, whoever has to go, and nothing twice."""
READY, DONE = signal.SIGUSR1, signal.SIGUSR2
"""Tell a worker that loads, or that drains, to go on."""

WORKER = """
import json, os, select, signal, socket, sys
TERM, INT, READY, DONE = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2
signal.pthread_sigmask(signal.SIG_BLOCK, {TERM, INT, READY, DONE})
model, manner = sys.argv[1:3]
line = socket.socket(fileno=int(sys.argv[sys.argv.index("--board-fd") + 1]))
def say(**what): line.send(json.dumps(what).encode())
while not model:
    say()
    if select.select([line], [], [], 0.1)[0]:
        model = json.loads(line.recv(4096)).get("model", "")
print("starting", model, flush=True)
if manner == "broken":
    print("turnpike: model file m.gguf: is no model", file=sys.stderr)
    sys.exit(1)
if manner == "crashes":
    os.kill(os.getpid(), signal.SIGSEGV)
say(read_bytes=1024)
if manner == "slow":
    signal.sigwait({READY})
busy = manner in ("busy", "steady")
taken = dict(num_slots=2, num_in_hand=1, num_settled=1, num_waited=1, waited_seconds=1.5) if busy else dict(num_slots=2)
say(state="serving", **taken)
while not signal.sigtimedwait({TERM}, 0.1 if manner == "steady" else 600):
    say(state="serving", **taken)
if manner == "busy":
    say(state="draining", **taken | dict(num_in_hand=2))
    if signal.sigwait({INT, DONE}) == INT:
        print("handed back", flush=True)
        sys.exit(130)
print("drained", flush=True)
"""
"""As `turnpike worker` on its line: by its manner it serves, is broken, crashes, loads until READY, or is busy until
DONE, and had a turn that had waited for the load; one that is steady has a turn that does not end, and says so again
and again. One without a model waits for it."""


class Roomy:
    """A node with so much memory for models."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes

    def memory_bytes(self, pids: Sequence[int], kept: int) -> int:
        return self._memory_bytes

    def memory_pressure(self) -> float:
        return 0.0

    def is_throttled(self) -> bool:
        return False


def offer(model: str, num_bytes: int = 100 * MIB) -> Offer:
    plan = MemoryPlan(num_bytes, 0, 0, process=0)
    return Offer(model, f"sha-{model}", ((model, num_bytes, 0),), num_bytes, plan)


@dataclass
class RunningBoard:
    """A supervisor as a test sees it."""

    task: asyncio.Task[None]
    stop: asyncio.Event
    supervisor: Supervisor
    started: list[Child] = field(default_factory=list)
    """Every worker that it has started, in order, those that were started ahead too."""

    def models(self) -> list[str]:
        return [child.model for child in self.started]

    def signal(self, number: signal.Signals) -> None:
        """To the worker that was started last."""
        os.kill(self.started[-1].pid, number)

    async def end(self) -> None:
        """Drained, and without an error."""
        self.stop.set()
        async with asyncio.timeout(SECONDS):
            await self.task


@asynccontextmanager
async def running_board(
    where: EmbeddedServer | Address,
    folder: Path,
    manners: dict[str, str],
    *,
    name: str = "b1",
    memory_bytes: int = 150 * MIB,
    rules: Rules = EAGER,
    pins: frozenset[str] = frozenset(),
    look: Callable[[], dict[str, Offer]] | None = None,
    silent_seconds: float = SILENT_SECONDS,
    spare: str | None = None,
    keeps_spare: bool = False,
    machine: Machine | None = None,
) -> AsyncIterator[RunningBoard]:
    """Of these models of 100 MiB, each with its worker's manner. `spare` is the manner of one that is started ahead."""
    nc = await connect(where if isinstance(where, Address) else where.address(BOARD), name=name)
    started: list[Child] = []

    async def start(one: Offer, heard: Callable[[], None]) -> Child:
        command = [sys.executable, "-c", WORKER, one.model, manners[one.model]]
        started.append(await Child.start(one.model, command, {}, heard, silent_seconds=silent_seconds))
        return started[-1]

    async def start_spare(heard: Callable[[], None]) -> Child:
        assert spare is not None
        command = [sys.executable, "-c", WORKER, "", spare]
        started.append(await Child.start("", command, {}, heard, silent_seconds=silent_seconds))
        return started[-1]

    def all_of_them() -> dict[str, Offer]:
        return {model: offer(model) for model in manners}

    look = look or all_of_them
    board = Board(
        name,
        rules,
        pins,
        machine or Roomy(memory_bytes),
        look,
        start,
        LoadTimes(folder / f"{name}.json"),
        start_spare=start_spare if spare is not None else None,
        keeps_spare=keeps_spare,
    )
    own, stop = Supervisor(nc, board, look()), asyncio.Event()
    task = asyncio.create_task(own.run(stop))
    try:
        yield RunningBoard(task, stop, own, started)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await close(nc)


@contextmanager
def soon_forgotten(seconds: int) -> Iterator[None]:
    """What boards say and claim expires after so many whole seconds, is said again as much more often, and the server
    waited for as much shorter."""
    share = seconds / placing.CLAIM_SECONDS
    with (
        mock.patch.object(placing, "BOARD_SECONDS", seconds),
        mock.patch.object(placing, "CLAIM_SECONDS", seconds),
        mock.patch.object(placing, "TELL_SECONDS", share * placing.TELL_SECONDS),
        mock.patch.object(placing, "SAY_SECONDS", share * placing.SAY_SECONDS),
        mock.patch.object(placing, "RENEW_SECONDS", share * placing.RENEW_SECONDS),
        mock.patch.object(presence, "SETTLE_SECONDS", share * presence.SETTLE_SECONDS),
        mock.patch.object(supervisor, "QUEUES_SECONDS", share * supervisor.QUEUES_SECONDS),
    ):
        yield


@asynccontextmanager
async def board_process(
    server: EmbeddedServer, folder: Path, manners: dict[str, str], *, name: str = "b1", expires: int = 10
) -> AsyncIterator[asyncio.subprocess.Process]:
    """As `running_board`, in a process of its own, whose log is NAME.log."""
    write_credentials(folder / f"{name}.credentials", server.address(BOARD))
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "tests.board_fakes",
        folder / f"{name}.credentials",
        folder,
        name,
        str(expires),
    ]
    command += [f"{model}={manner}" for model, manner in manners.items()]
    with (folder / f"{name}.log").open("ab") as log:
        process = await spawn(
            command, stdout=log.fileno(), stderr=log.fileno(), env={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def is_gone(pidfd: int, seconds: float = SECONDS) -> bool:
    """Whether that process ends within so many seconds. The descriptor is closed then."""
    gone, _, _ = await asyncio.to_thread(select.select, [pidfd], [], [], seconds)
    os.close(pidfd)
    return bool(gone)


@asynccontextmanager
async def reaping(server: EmbeddedServer) -> AsyncIterator[None]:
    """Turns that wait for what cannot be loaded are ended."""
    stop = asyncio.Event()
    task = asyncio.create_task(reap(server.address(REAPER), stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, SECONDS)


class Heard:
    """What a board tells telemetry, from `hear` on."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._news = asyncio.Event()

    async def hear(self, nc: NatsConnection, board: str = "b1") -> None:
        await nc.subscribe(subjects.telemetry(board), cb=self._on_points)
        await nc.flush()

    async def first(self, measurement: Measurement, **has: object) -> Point:
        """The first point whose tags and fields are so, once it is there."""
        async with asyncio.timeout(SECONDS):
            while True:
                for point in self.points:
                    if point.measurement == measurement.name and has.items() <= (point.tags | point.fields).items():
                        return point
                self._news.clear()
                await self._news.wait()

    async def _on_points(self, message: Msg) -> None:
        self.points += codec.decode_points(message.data, message.headers)[0]
        self._news.set()


async def until[T](watch: Watch, look: Callable[[Placement], T | None]) -> T:
    """What `look` finds in the bucket, once it finds something."""
    async with asyncio.timeout(SECONDS):
        while True:
            if found := look(watch.placement()):
                return found
            await watch.changed(1.0)


def state_of(placement: Placement, board: str = "b1") -> BoardState | None:
    return next((one for one in placement.boards if one.board == board), None)


def model_of(placement: Placement, model: str, board: str = "b1") -> ModelOnBoard | None:
    state = state_of(placement, board)
    return next((one for one in state.models if one.model == model), None) if state is not None else None


def is_in(model: str, state: str, board: str = "b1") -> Callable[[Placement], ModelOnBoard | None]:
    """For `until`: the model, once it is in that state."""

    def look(placement: Placement) -> ModelOnBoard | None:
        found = model_of(placement, model, board)
        return found if found is not None and found.state == state else None

    return look


async def main(credentials: Path, folder: Path, name: str, manners: dict[str, str], stop: asyncio.Event) -> int:
    async with running_board(read_credentials(credentials), folder, manners, name=name) as board:
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, board.task}, return_when=asyncio.FIRST_COMPLETED)
        board.stop.set()
        await board.task
    return 0


if __name__ == "__main__":
    _, where, into, own_name, num_seconds, *models = sys.argv
    told = dict(one.split("=", 1) for one in models)
    with soon_forgotten(int(num_seconds)):
        sys.exit(run(lambda stop: main(Path(where), Path(into), own_name, told, stop)))
