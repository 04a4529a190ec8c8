"""A board whose node is short of memory or throttled, as the node itself tells it: it takes less, and says why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, placing, subjects
from broker.accounts import BOARD, SIDECAR
from broker.client import Client
from broker.connection import close, connect
from broker.messages import NodeState
from broker.messages.boards import AVAILABLE, SERVING, Order
from broker.placing import Watch
from broker.server import EmbeddedServer
from tests.board_fakes import MIB, SECONDS, Roomy, is_in, model_of, running_board, state_of, until
from workers.boards.command import _machine
from workers.boards.memory import memory_pressure
from workers.boards.settings import BoardSettings


@pytest.fixture
async def watch(operator: NatsConnection) -> AsyncIterator[Watch]:
    async with Watch(operator) as watch:
        yield watch


class Pressed(Roomy):
    """A node whose kernel tells of its memory in these files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(1000 * MIB)
        self._proc = folder / "proc"
        (self._proc / "pressure").mkdir(parents=True)
        self.press(0.0)

    def press(self, percent: float) -> None:
        some = f"some avg10={percent:.2f} avg60=0.00 avg300=0.00 total=1\n"
        (self._proc / "pressure/memory").write_text(some + "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")

    def memory_pressure(self) -> float:
        return memory_pressure(self._proc, self._proc / "cgroup")


async def test_a_board_that_is_short_of_memory_gives_up_what_is_idle_loads_nothing_and_says_why(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection, watch: Watch, tmp_path: Path
) -> None:
    await nats_server.ensure(["a", "b"])
    node, manners = Pressed(tmp_path), {"a": "serves", "b": "serves"}
    async with running_board(nats_server, tmp_path, manners, machine=node) as board:
        await until(watch, state_of)
        await placing.order(operator, Order("a", load=True, sent_at=time.time()))
        await until(watch, is_in("a", SERVING))
        node.press(45.0)
        await until(watch, is_in("a", AVAILABLE))
        state = state_of(watch.placement())
        assert state is not None
        assert state.memory_pressure == 0.45
        await client.ask("b", "hello").publish()
        await until(watch, lambda found: one if (one := model_of(found, "b")) and one.num_waiting else None)
        status = await client.status("b")
        assert status is not None
        assert status.words().endswith(" s: b1 is short of memory")
        assert board.models() == ["a"]
        node.press(3.0)
        await until(watch, is_in("b", SERVING))
        assert board.models() == ["a", "b"]
        await board.end()


async def test_a_board_hears_from_its_nodes_sidecar_that_it_is_throttled(nats_server: EmbeddedServer) -> None:
    board = await connect(nats_server.address(BOARD), name="pi-1")
    sidecar = await connect(nats_server.address(SIDECAR), name="sidecar")
    async with _machine(board, "pi-1", BoardSettings()) as machine:
        await board.flush()
        assert not machine.is_throttled()
        async with asyncio.timeout(SECONDS):
            while not machine.is_throttled():
                await sidecar.publish(subjects.node("pi-1"), codec.encode(NodeState(is_throttled=True)))
                await sidecar.flush()
        await sidecar.publish(subjects.node("pi-1"), codec.encode(NodeState(is_throttled=False)))
        async with asyncio.timeout(SECONDS):
            while machine.is_throttled():
                await sidecar.flush()
    await close(board)
    await close(sidecar)
