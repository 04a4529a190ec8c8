"""Boards beside workers that nobody's board has started: what those serve is not loaded once more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsConnection

from broker.accounts import BOARD
from broker.client import Client
from broker.connection import close, connect
from broker.discovery import OF_BOARD
from broker.messages.boards import AVAILABLE, SERVING
from broker.placing import Watch
from broker.server import EmbeddedServer
from tests.board_fakes import SECONDS, is_in, model_of, running_board, until
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import eventually
from workers.boards.plain_workers import PlainWorkers


@pytest.fixture
async def watch(operator: NatsConnection) -> AsyncIterator[Watch]:
    async with Watch(operator) as watch:
        yield watch


async def test_turns_behind_a_busy_worker_wait_for_it_and_have_no_board_load_its_model(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker, watch: Watch, tmp_path: Path
) -> None:
    """Two models fit; the plain worker's only slot is taken, so that it does not pull."""
    await nats_server.ensure(["m", "other"])
    async with start_worker(FakeEngine(num_slots=1)) as plain:
        plain.engine.gate.clear()
        taken = client.ask("m", "taken")
        await taken.publish()
        async with asyncio.timeout(SECONDS):
            while taken.started is None:
                await taken._next()
        waits = client.ask("m", "waits")
        await waits.publish()
        manners = {"m": "serves", "other": "serves"}
        async with running_board(nats_server, tmp_path, manners, memory_bytes=250 * 2**20) as board:
            await client.ask("other", "hello").publish()
            await until(watch, is_in("other", SERVING))
            own = model_of(watch.placement(), "m")
            assert own is not None
            assert (own.state, own.num_waiting) == (AVAILABLE, 1)
            assert board.models() == ["other"]
            plain.engine.gate.set()
            assert (await asyncio.wait_for(_ended(waits), SECONDS)) == "echo waits"
            # Once it leaves, what waits is the board's to serve.
            plain.stop.set()
            await asyncio.wait({plain.task}, timeout=SECONDS)
            await client.ask("m", "behind").publish()
            await until(watch, is_in("m", SERVING))
            await board.end()
        await taken.close()


async def test_a_worker_of_a_board_is_not_counted_twice_and_one_that_leaves_no_more(
    nats_server: EmbeddedServer, start_worker: StartWorker
) -> None:
    nc = await connect(nats_server.address(BOARD), name="pi")
    found = PlainWorkers(nc)
    async with start_worker(name="plain") as plain, start_worker(name="of-board", facts={OF_BOARD: "pi"}):
        looking = asyncio.create_task(found.run())
        await eventually(lambda: found.has_looked)
        (board,) = found.boards
        (model,) = board.models
        assert (board.board, board.memory_bytes) == ("worker plain", 0)
        assert (model.model, model.state, model.num_slots) == ("m", SERVING, 4)
        plain.stop.set()
        await eventually(lambda: not found.boards)
        looking.cancel()
    await close(nc)


async def _ended(answer: object) -> str:
    async for _ in answer:  # type: ignore[attr-defined]
        pass
    return str(answer.text)  # type: ignore[attr-defined]
