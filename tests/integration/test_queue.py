"""Waiting in line: shares, cancels of what is queued, deadlines, one's place."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsConnection

from broker import jetstream, subjects
from broker.accounts import LOCAL, OPERATOR
from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.connection import connect
from broker.messages import Done, Failed, Sampling
from broker.priorities import Priority
from broker.server import EmbeddedServer
from broker.topology import Limits
from tests.fakes import FakeEngine
from tests.integration.conftest import Running, StartWorker
from workers.engine.preemption import BATCH_EVERY


async def queue_up(client: Client, count: int, priority: Priority = "interactive") -> list[Answer]:
    answers = [client.ask("m", f"{priority} {index}", priority=priority) for index in range(count)]
    for answer in answers:
        await answer.publish()
    return answers


async def busy_worker(running: Running, client: Client) -> Answer:
    """Fills the one slot and holds it."""
    running.engine.gate.clear()
    answer = client.ask("m", "busy")
    await answer.publish()
    await asyncio.to_thread(running.engine.stepped.wait)
    return answer


async def until_queued(nc: NatsConnection, count: int) -> None:
    """The end of a queued turn comes before its message goes."""
    async with asyncio.timeout(10):
        while True:
            info = await jetstream.api(nc, f"STREAM.INFO.{subjects.turns_stream('m')}")
            assert info is not None
            if info["state"]["messages"] == count:
                return


async def test_batch_has_its_share_while_interactive_waits(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        busy = await busy_worker(running, client)
        batch = await queue_up(client, 3, "batch")
        interactive = await queue_up(client, 4 * BATCH_EVERY)
        order: list[str] = []

        async def note(answer: Answer, name: str) -> None:
            await answer
            order.append(name)

        running.engine.gate.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(note(busy, "busy"))
            for answer in batch:
                group.create_task(note(answer, "batch"))
            for answer in interactive:
                group.create_task(note(answer, "interactive"))
    places = [index for index, name in enumerate(order) if name == "batch"]
    assert places[-1] < 3 * BATCH_EVERY + 2, order
    assert places[0] >= BATCH_EVERY - 3, "interactive goes first"


@pytest.mark.parametrize("scope", ["conversation", "all"])
async def test_queued_turns_are_cancelled_while_every_worker_is_busy(
    client: Client, start_worker: StartWorker, operator: NatsConnection, nats_server: EmbeddedServer, scope: str
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        busy = await busy_worker(running, client)
        mine = [client.ask("m", f"turn {index}", conversation="c") for index in range(5)]
        other = client.ask("m", "another conversation", conversation="d")
        for answer in (*mine, other):
            await answer.publish()
        await client.cancel(conversation="c" if scope == "conversation" else None)
        for answer in mine:
            done = await answer
            assert (done.finish_reason, done.tokens) == ("cancelled", ())
        if scope == "conversation":
            await until_queued(operator, 2)  # the busy one and the other conversation's
        running.engine.gate.set()
        if scope == "conversation":
            assert (await other).text == "echo another conversation"
            assert (await busy).text == "echo busy"
        else:
            assert {(await other).finish_reason, (await busy).finish_reason} == {"cancelled"}


@pytest.mark.parametrize("scope", ["conversation", "all"])
async def test_a_cancel_from_before_a_worker_came_is_found(
    client: Client, start_worker: StartWorker, scope: str
) -> None:
    before = client.ask("m", "before", conversation="c")
    await before.publish()
    await client.cancel(conversation="c" if scope == "conversation" else None)
    after = client.ask("m", "after", conversation="c")
    await after.publish()
    async with start_worker():
        assert (await before).finish_reason == "cancelled"
        assert (await after).text == "echo after", "the conversation goes on after its cancel"


async def test_a_queued_turn_is_cancelled_by_its_id_alone(
    client: Client, start_worker: StartWorker, operator: NatsConnection
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        busy = await busy_worker(running, client)
        queued = (await queue_up(client, 1))[0]
        await client.cancel(turn=queued.turn.id)
        assert (await queued).finish_reason == "cancelled"
        await until_queued(operator, 1)
        running.engine.gate.set()
        await busy


async def test_the_time_from_a_cancel_to_the_freed_slot_is_told(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer="x" * 100_000, num_ctx=200_000, step_seconds=0.002)):
        answer = client.ask("m", "go on", sampling=Sampling(max_tokens=90_000))
        stream = answer.__aiter__()
        await anext(stream)
        await answer.cancel()
        async for _ in stream:
            pass
        assert 0 < answer.done.timings.cancel < 1


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_a_turn_past_its_deadline_fails_at_once(
    client: Client, start_worker: StartWorker, operator: NatsConnection, state: str
) -> None:
    engine = FakeEngine(num_slots=1, answer="x" * 100_000, num_ctx=200_000, step_seconds=0.002)
    async with start_worker(engine) as running:
        sampling = Sampling(max_tokens=90_000)
        if state == "queued":
            running.engine.gate.clear()
            await client.ask("m", "busy", sampling=sampling).publish()
            await asyncio.to_thread(running.engine.stepped.wait)
        deadline = time.time() + 0.5
        answer = client.ask("m", "late", sampling=sampling, deadline=deadline)
        with pytest.raises(TurnFailed, match="deadline"):
            await answer
        assert time.time() - deadline < 2
        if state == "queued":
            await until_queued(operator, 1)
            running.engine.gate.set()
            await client.cancel()


async def test_a_deadline_that_cannot_be_met_is_refused_with_a_hint(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(step_seconds=0.05)):
        for _ in range(3):
            await client.ask("m", "how long do these take, about")
        answer = client.ask("m", "x " * 2000, deadline=time.time() + 0.2)
        with pytest.raises(TurnFailed) as error:
            await answer
        failed = error.value.failed
        assert isinstance(failed, Failed)
        assert (failed.code, failed.retryable) == ("overloaded", True)
        assert failed.retry_after is not None


async def test_a_waiting_client_learns_about_its_place(
    client: Client, start_worker: StartWorker, nats_server: EmbeddedServer
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running, Client(nats_server.address(LOCAL)) as other:
        busy = await busy_worker(running, client)
        ahead = await queue_up(other, 10)
        last = client.ask("m", "last")
        await last.publish()
        place = await last.place()
        assert place is not None
        assert place.turns_ahead == 10
        running.engine.gate.set()
        for answer in ahead:
            await answer
        end = await last
        assert isinstance(end, Done)
        assert await last.place() is None
        await busy


async def test_ends_over_their_bytes_make_room_for_new_ones(tmp_path: Path, start_worker: StartWorker) -> None:
    """The soak found it: a stream that refuses a second end also refuses a first one when it is full."""
    async with EmbeddedServer(tmp_path / "small") as server:
        await server.ensure(["m"], Limits(max_end_bytes=30_000))
        async with start_worker(server=server), Client(server.address(LOCAL)) as client:
            done = [await client.ask("m", "x" * 100) for _ in range(120)]
            assert all(len(one.text) > 100 for one in done)
        nc = await connect(server.address(OPERATOR), name="operator")
        info = await jetstream.api(nc, f"STREAM.INFO.{subjects.ENDS}")
        await nc.close()
    assert info is not None
    assert info["state"]["bytes"] <= 30_000
    assert info["state"]["last_seq"] == 120
    assert info["state"]["first_seq"] > 1
