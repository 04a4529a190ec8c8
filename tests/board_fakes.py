"""A board on a real server whose workers are processes without a model, which do as they are told."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker.accounts import BOARD
from broker.connection import close, connect
from broker.messages.boards import BoardState, ModelOnBoard
from broker.placing import Placement, Watch
from broker.server import EmbeddedServer
from workers.boards.board import Board
from workers.boards.child import Child
from workers.boards.load_times import LoadTimes
from workers.boards.offers import Offer
from workers.boards.supervisor import Supervisor
from workers.boards.view import Rules
from workers.machine.memory import MemoryPlan

MIB = 2**20
SECONDS = 20.0
EAGER = Rules(interactive_seconds=0.0, residency_seconds=0.0, residency_loads=0.0)
"""What waits is loaded at once, whoever has to go."""
READY, DONE = signal.SIGUSR1, signal.SIGUSR2
"""Tell a worker that loads, or that drains, to go on."""

WORKER = """
import json, os, signal, socket, sys
TERM, READY, DONE = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2
signal.pthread_sigmask(signal.SIG_BLOCK, {TERM, READY, DONE})
model, manner = sys.argv[1:3]
line = socket.socket(fileno=int(sys.argv[sys.argv.index("--board-fd") + 1]))
def say(**what): line.send(json.dumps(what).encode())
print("starting", model, flush=True)
if manner == "broken":
    print("turnpike: model file m.gguf: is no model", file=sys.stderr)
    sys.exit(1)
if manner == "crashes":
    os.kill(os.getpid(), signal.SIGSEGV)
say(read_bytes=1024)
if manner == "slow":
    signal.sigwait({READY})
busy = manner == "busy"
say(state="serving", num_slots=2, num_in_hand=int(busy))
signal.sigwait({TERM})
if busy:
    say(state="draining", num_slots=2, num_in_hand=1)
    if signal.sigwait({TERM, DONE}) == TERM:
        print("handed back", flush=True)
        sys.exit(130)
print("drained", flush=True)
"""
"""As `turnpike worker` on its line: by its manner it serves, is broken, crashes, loads until READY, is busy until
DONE."""


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
    started: list[Child] = field(default_factory=list)
    """Every worker that it has started, in order."""

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
    server: EmbeddedServer,
    folder: Path,
    manners: dict[str, str],
    *,
    name: str = "b1",
    memory_bytes: int = 150 * MIB,
    rules: Rules = EAGER,
    pins: frozenset[str] = frozenset(),
    look: Callable[[], dict[str, Offer]] | None = None,
) -> AsyncIterator[RunningBoard]:
    """Of these models of 100 MiB, each with its worker's manner."""
    nc = await connect(server.address(BOARD), name=name)
    started: list[Child] = []

    async def start(one: Offer, heard: Callable[[], None]) -> Child:
        command = [sys.executable, "-c", WORKER, one.model, manners[one.model]]
        started.append(await Child.start(one.model, command, {}, heard))
        return started[-1]

    def all_of_them() -> dict[str, Offer]:
        return {model: offer(model) for model in manners}

    look = look or all_of_them
    board = Board(name, rules, pins, Roomy(memory_bytes), look, start, LoadTimes(folder / f"{name}.json"))
    supervisor, stop = Supervisor(nc, board, look()), asyncio.Event()
    task = asyncio.create_task(supervisor.run(stop))
    try:
        yield RunningBoard(task, stop, started)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await close(nc)


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
