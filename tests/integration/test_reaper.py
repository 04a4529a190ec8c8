"""Queued turns that end although no worker does it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import nats.errors
import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, reaper, subjects, topology
from broker.accounts import LOCAL, REAPER
from broker.answer import Answer
from broker.client import Client
from broker.connection import close, connect
from broker.errors import ConnectionLost, ServerError
from broker.messages import Done, Failed, Message, Turn, new_id
from broker.reaper import Reaper
from broker.replies import ReplyWriter
from broker.server import EmbeddedServer
from broker.subjects import TurnAddress
from tests.cut_line import line_to
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.integration.test_queue import until_queued


@asynccontextmanager
async def reaping(server: EmbeddedServer) -> AsyncIterator[NatsConnection]:
    """A reaper as the broker runs it, with the rights of its role."""
    nc = await connect(server.address(REAPER), name="reaper")
    stop = asyncio.Event()
    task = asyncio.create_task(Reaper(nc).run(stop))
    try:
        yield nc
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)
        await close(nc)


async def queued(client: Client, text: str, deadline: float | None = None, conversation: str | None = None) -> Answer:
    answer = client.ask("m", text, deadline=deadline, conversation=conversation)
    await answer.publish()
    return answer


async def end_of(client: Client, answer: Answer, seconds: float = 10) -> Done | Failed:
    async with asyncio.timeout(seconds):
        while (end := await client.read(answer.turn.id)) is None:
            pass
    return end


async def test_a_queued_turn_ends_at_its_deadline_without_a_worker(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection
) -> None:
    deadline = time.time() + 1
    late, early = await queued(client, "late", deadline), await queued(client, "early", 1.0)
    endless = await queued(client, "endless")
    async with reaping(nats_server):
        failed = [await end_of(client, answer) for answer in (early, late)]
        assert time.time() >= deadline
        assert time.time() < deadline + 4
        assert all(isinstance(end, Failed) and end.code == "deadline" for end in failed), failed
        await until_queued(operator, 1)
    assert await client.read(endless.turn.id) is None, "a turn without a deadline waits for its worker"


async def test_cancels_end_what_is_queued_without_a_worker(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection
) -> None:
    before = await queued(client, "before", conversation="c")
    await client.cancel(conversation="c")
    behind = await queued(client, "behind its cancel", conversation="c")
    async with reaping(nats_server):
        assert isinstance(await end_of(client, before), Done), "a cancel from before the reaper came"
        by_id, other = await queued(client, "by id"), await queued(client, "other")
        await by_id.cancel()
        ended = await end_of(client, by_id)
        assert isinstance(ended, Done)
        assert ended.finish_reason == "cancelled"
        assert await client.read(behind.turn.id) is None, "a conversation goes on after its cancel"
        await client.cancel()
        for answer in (behind, other):
            assert isinstance(await end_of(client, answer), Done)
        await until_queued(operator, 0)


async def test_a_cancel_ends_no_other_clients_turns(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection
) -> None:
    someone = Client.on(operator, "someone")
    theirs, own = await queued(someone, "theirs"), await queued(client, "mine")
    async with reaping(nats_server):
        await client.cancel()
        assert isinstance(await end_of(client, own), Done)
        await until_queued(operator, 1)
    assert await someone.read(theirs.turn.id) is None


async def test_several_reapers_write_one_end_for_each_turn(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection
) -> None:
    answers = [await queued(client, str(number), deadline=time.time() + 1) for number in range(40)]
    async with reaping(nats_server), reaping(nats_server), reaping(nats_server):
        ends = [await end_of(client, answer) for answer in answers]
        await until_queued(operator, 0)
    assert all(isinstance(end, Failed) for end in ends)
    assert (await state_of(operator, subjects.ENDS))["messages"] == len(answers)


async def test_more_turns_than_one_look_takes_all_end(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "MAX_READ", 7)
    monkeypatch.setattr(reaper, "PIECE", 3)
    monkeypatch.setattr(reaper, "MAX_KNOWN", 11)
    answers = [await queued(client, str(number)) for number in range(40)]
    await client.cancel()
    async with reaping(nats_server):
        await until_queued(operator, 0)
    assert all([isinstance(await client.read(answer.turn.id), Done) for answer in answers])


async def test_turns_of_a_model_with_a_live_worker_are_its_own(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker, operator: NatsConnection
) -> None:
    async with reaping(nats_server), start_worker(FakeEngine(num_slots=1)) as running:
        running.engine.gate.clear()
        runs = await queued(client, "runs")
        assert await asyncio.to_thread(running.engine.stepped.wait, 30)
        late = await queued(client, "waits behind it", deadline=time.time() + 0.2)
        await looks(operator, 3)
        assert await client.read(late.turn.id) is None, "its worker looks at it when a slot is free"
        running.engine.gate.set()
        for answer in (runs, late):
            assert (await end_of(client, answer)).worker == "w1"


async def test_a_begun_turn_is_left_to_its_worker_for_as_long_as_the_server_does(
    client: Client, operator: NatsConnection
) -> None:
    answer = await queued(client, "begun", deadline=1.0)
    await ReplyWriter(operator, TurnAddress("m", "interactive", LOCAL, answer.turn.id), "w1").start()
    looking = Reaper(operator)
    for _ in range(2):
        await looking.look()
    assert await client.read(answer.turn.id) is None, "the worker may only be cut off from the server"
    looking._queues["m"].left_since -= topology.ACK_WAIT_SECONDS
    await looking.look()
    assert isinstance(await client.read(answer.turn.id), Failed), "by now another worker would have had it"
    await until_queued(operator, 0)


async def test_a_turn_that_has_gone_gets_no_second_life(client: Client, operator: NatsConnection) -> None:
    answer = await queued(client, "gone", deadline=time.time() + 0.5)
    looking = Reaper(operator)
    await looking.look()
    await jetstream.api(operator, "STREAM.PURGE.TURNS-m")
    kept = await queued(client, "kept")
    await asyncio.sleep(max(0.0, (answer.turn.deadline or 0) - time.time()))
    await looking.look()
    assert await client.read(answer.turn.id) is None
    assert await client.read(kept.turn.id) is None


async def test_what_is_no_turn_is_left_to_a_worker(client: Client, operator: NatsConnection) -> None:
    await operator.request(subjects.turn("m", "batch", LOCAL, new_id()), b"\xff", timeout=5)
    late = await queued(client, "late", deadline=1.0)
    await Reaper(operator).look()
    assert isinstance(await client.read(late.turn.id), Failed)
    await until_queued(operator, 1)


async def test_a_turn_that_looks_like_a_status_holds_up_no_others_end(client: Client, operator: NatsConnection) -> None:
    odd = Turn(new_id(), new_id(), (Message("user", "odd"),), deadline=1.0)
    subject = subjects.turn("m", "interactive", LOCAL, odd.id)
    await operator.request(subject, codec.encode(odd), headers={"Status": "503"}, timeout=5)
    late = await queued(client, "late", deadline=1.0)
    await Reaper(operator).look()
    assert isinstance(await client.read(odd.id), Failed)
    assert isinstance(await client.read(late.turn.id), Failed)


@pytest.mark.parametrize("subject", ["turn.m.batch.local.t", "cancel.local.all", "reply.local.t", "dead.m"])
async def test_a_reaper_may_end_turns_and_do_no_more(nats_server: EmbeddedServer, subject: str) -> None:
    nc = await connect(nats_server.address(REAPER), name="reaper")
    with pytest.raises(nats.errors.Error):
        await nc.request(subject, b"{}", timeout=0.3)
    await close(nc)


async def test_a_reaper_whose_connection_is_closed_for_good_ends(nats_server: EmbeddedServer) -> None:
    nc = await connect(nats_server.address(REAPER), name="reaper")
    task = asyncio.create_task(Reaper(nc).run(asyncio.Event()))
    await looks(nc, 1)
    await nc.close()
    with pytest.raises(ServerError, match="closed"):
        await asyncio.wait_for(task, 5)


async def test_a_reaper_ends_with_a_connection_that_said_it_is_closed(nats_server: EmbeddedServer) -> None:
    nc = await connect(nats_server.address(REAPER), name="reaper")
    task = asyncio.create_task(Reaper(nc).run(asyncio.Event()))
    await nc.on_closed()  # and nats-py, which was reconnecting at the same time, goes on
    with pytest.raises(ConnectionLost):
        await asyncio.wait_for(task, 5)
    await close(nc)


async def test_a_queue_that_cannot_be_read_holds_up_no_other(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection
) -> None:
    await topology.ensure(operator, ["another"])
    unread = await jetstream.api(operator, "STREAM.INFO.TURNS-another")
    assert unread is not None
    await jetstream.api(operator, "STREAM.UPDATE.TURNS-another", unread["config"] | {"allow_direct": False})
    await client.ask("another", "queued").publish()
    late = await queued(client, "late", deadline=1.0)
    await Reaper(operator).look()
    assert isinstance(await client.read(late.turn.id), Failed)


async def test_a_reaper_hears_the_cancels_of_a_server_that_came_back_with_an_empty_store(
    client: Client, operator: NatsConnection
) -> None:
    looking = Reaper(operator)
    answer = await queued(client, "cancelled behind the loss")
    for _ in range(3):
        await client.cancel(conversation="another")
    await looking.look()
    await jetstream.api(operator, f"STREAM.DELETE.{subjects.CANCELS}")
    await topology.ensure(operator, [])
    await answer.cancel()
    while await looking.look():
        pass
    assert isinstance(await client.read(answer.turn.id), Done)


async def test_beside_a_server_a_reaper_whose_connection_was_closed_for_good_begins_anew(
    nats_server: EmbeddedServer, client: Client
) -> None:
    stop = asyncio.Event()
    async with line_to(nats_server.url) as line:
        reaping = asyncio.create_task(reaper.keep_reaping(replace(nats_server.address(REAPER), url=line.url), stop))
        for text in ("before", "behind"):
            assert isinstance(await end_of(client, await queued(client, text, deadline=1.0)), Failed)
            await line.refuse("Maximum Connections Exceeded")
        stop.set()
        await asyncio.wait_for(reaping, 10)


async def state_of(nc: NatsConnection, stream: str) -> dict[str, int]:
    info = await jetstream.api(nc, f"STREAM.INFO.{stream}")
    assert info is not None
    return dict(info["state"])


async def looks(nc: NatsConnection, count: int) -> None:
    """For so many of the reaper's looks, which nobody hears of."""
    await asyncio.sleep(count * (reaper.LOOK_SECONDS + reaper.REST_SECONDS))
