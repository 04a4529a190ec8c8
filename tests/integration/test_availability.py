"""A queue without a worker: who is told, how soon, and what ends there."""

from __future__ import annotations

import asyncio
import time

import pytest

from broker.answer import TurnFailed
from broker.client import Client
from broker.errors import NotServed, UnservedModel
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker


async def test_a_model_is_served_while_a_worker_of_it_answers(client: Client, start_worker: StartWorker) -> None:
    assert not await client.is_served("m")
    assert await client.served("m") == []
    async with start_worker(name="w1"), start_worker(name="w2"):
        started = time.perf_counter()
        assert await client.is_served("m")
        assert time.perf_counter() - started < 0.2, "an answer that is there is not waited for"
        assert [worker.worker for worker in await client.served("m")] == ["w1", "w2"]
        assert not await client.is_served("other")
    assert not await client.is_served("m"), "a worker that has drained serves no longer"


async def test_a_worker_with_every_slot_taken_serves(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        running.engine.gate.clear()
        answer = client.ask("m", "x")
        await answer.publish()
        async with asyncio.timeout(5):
            while (await client.served("m"))[0].load.num_active == 0:
                pass
        assert await client.is_served("m")
        running.engine.gate.set()
        await answer


async def test_waiting_for_a_worker_ends_when_one_comes_or_the_time_is_up(
    client: Client, start_worker: StartWorker
) -> None:
    with pytest.raises(NotServed, match="nobody serves model 'm' just now"):
        await client.until_served("m")
    with pytest.raises(UnservedModel):
        await client.until_served("other", 60)
    waiting = asyncio.ensure_future(client.until_served("m", 30))
    async with start_worker():
        await asyncio.wait_for(waiting, 5)


async def test_a_reader_keeps_its_deadline_where_nobody_ends_the_turn(client: Client) -> None:
    deadline = time.time() + 0.5
    async with asyncio.timeout(10):
        with pytest.raises(TurnFailed, match=r"deadline: .*nobody has ended the turn"):
            await client.ask("m", "hello", deadline=deadline)
    assert deadline <= time.time() < deadline + 4


async def test_a_reader_keeps_its_deadline_while_the_server_is_away(
    client: Client, nats_server: EmbeddedServer
) -> None:
    deadline = time.time() + 1
    answer = client.ask("m", "hello", deadline=deadline)
    await answer.publish()
    await nats_server.kill()
    async with asyncio.timeout(15):
        with pytest.raises(TurnFailed, match="deadline"):
            await answer


async def test_ones_place_is_not_told_while_the_server_is_away(client: Client, nats_server: EmbeddedServer) -> None:
    answer = client.ask("m", "hello")
    await answer.publish()
    await nats_server.kill()
    assert await asyncio.wait_for(answer.place(), 15) is None
    await nats_server.start()
