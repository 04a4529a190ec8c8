"""Cancels: what they cost, whom they concern, and that nobody's wait for another's."""

from __future__ import annotations

import asyncio
import time

import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, subjects, topology
from broker.accounts import LOCAL, OPERATOR
from broker.answer import Answer
from broker.client import Client
from broker.connection import close, connect
from broker.delivery import Delivery, Puller
from broker.errors import QueueFull
from broker.messages import Cancel, Done, Message, Turn, new_id
from broker.server import EmbeddedServer
from broker.subjects import CancelAddress, TurnAddress
from producers.gateway.reading import cancelled_unless_ended
from tests.fakes import FakeEngine
from tests.integration.conftest import Running, StartWorker
from workers.queue.cancels import CancelListener, Cancels
from workers.queue.model_queue import ModelQueue
from workers.turns.in_hand import TurnsInHand
from workers.turns.work import Work


async def busy(running: Running, client: Client) -> Answer:
    """A turn that holds the only slot."""
    running.engine.gate.clear()
    answer = client.ask("m", "busy")
    await answer.publish()
    await asyncio.to_thread(running.engine.entered.wait, 10)
    return answer


async def queue_up(client: Client, number: int, conversation: str = "c") -> list[Answer]:
    answers = [client.ask("m", f"turn {index}", conversation=conversation) for index in range(number)]
    for answer in answers:
        await answer.publish()
    return answers


async def num_queued(nc: NatsConnection) -> int:
    info = await jetstream.api(nc, "STREAM.INFO.TURNS-m")
    assert info is not None
    found: int = info["state"]["messages"]
    return found


async def until_carried_out(running: Running, client: Client) -> None:
    """Returns once the worker has carried out the client's cancels up to now, the last one among them."""
    last = (await queue_up(client, 1, "last"))[0]
    await client.cancel(turn=last.turn.id)
    assert (await asyncio.wait_for(last, 10)).finish_reason == "cancelled"
    while running.worker.cancels.cancels.queued.num_clients:
        await client.nc.flush()


async def test_refused_publishes_cost_the_workers_nothing_to_speak_of(
    client: Client, start_worker: StartWorker, nats_server: EmbeddedServer
) -> None:
    await nats_server.ensure(["m"], topology.Limits(max_queued_turns=101))
    async with start_worker(FakeEngine(num_slots=1)) as running:
        first = await busy(running, client)
        queued = await queue_up(client, 100)
        before = running.nc.stats["out_msgs"]
        for _ in range(5):
            refused = client.ask("m", "one more")
            with pytest.raises(QueueFull):
                async with cancelled_unless_ended(refused):
                    await refused.publish()
        await client.cancel(turn=queued[0].turn.id)
        assert (await asyncio.wait_for(queued[0], 10)).finish_reason == "cancelled"
        assert running.nc.stats["out_msgs"] - before < 40
        running.engine.gate.set()
        assert (await first).text == "echo busy"


async def test_what_was_looked_through_once_is_not_fetched_again(
    client: Client, start_worker: StartWorker, operator: NatsConnection
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        await busy(running, client)
        await queue_up(client, 50)
        costs = []
        for _ in range(3):
            mine = await queue_up(client, 1, "mine")
            before = running.nc.stats["out_msgs"]
            await asyncio.gather(*(client.cancel(conversation=name) for name in ("mine", "another", "third")))
            assert (await asyncio.wait_for(mine[0], 10)).finish_reason == "cancelled"
            await until_carried_out(running, client)
            costs.append(running.nc.stats["out_msgs"] - before)
        assert costs[0] > 50
        assert max(costs[1:]) < 40
        assert await num_queued(operator) == 51
        await client.cancel()
        running.engine.gate.set()


async def test_a_cancel_that_names_anothers_sequence_deletes_nothing_of_theirs(
    client: Client, start_worker: StartWorker, operator: NatsConnection, nats_server: EmbeddedServer
) -> None:
    nats_server.accounts.add("mallory", "producer")
    async with start_worker(FakeEngine(num_slots=1)) as running:
        first = await busy(running, client)
        victim = (await queue_up(client, 1))[0]
        assert victim._sequence is not None
        mallory = Client.on(operator, "mallory")
        cancel = Cancel(sequence=victim._sequence, model="m", sent_at=time.time())
        await mallory.publish_cancel(subjects.CancelAddress("mallory", new_id()), cancel)
        await until_carried_out(running, mallory)
        assert await num_queued(operator) == 2
        running.engine.gate.set()
        assert (await asyncio.wait_for(victim, 10)).text == "echo turn 0"
        await first


async def test_a_queued_turn_is_cancelled_though_another_client_has_one_of_its_name_running(
    client: Client, start_worker: StartWorker, operator: NatsConnection
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        first = await busy(running, client)
        other = Client.on(operator, "other")
        # As the server takes it once the first one's id is no news any more.
        subject = subjects.turn("m", "interactive", "other", first.turn.id)
        await operator.request(subject, codec.encode(first.turn), headers={codec.CONTENT_TYPE: codec.MSGPACK})
        await other.cancel(turn=first.turn.id)
        async with asyncio.timeout(10):
            while (end := await other.read(first.turn.id)) is None:
                pass
        assert isinstance(end, Done)
        assert end.finish_reason == "cancelled"
        running.engine.gate.set()
        assert (await asyncio.wait_for(first, 10)).text == "echo busy"


async def test_nobodys_cancel_waits_for_anothers(
    client: Client, start_worker: StartWorker, operator: NatsConnection
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        await busy(running, client)
        many = await queue_up(client, 200)
        other = Client.on(operator, "other")
        theirs = (await queue_up(other, 1))[0]
        await client.cancel()
        await theirs.cancel()
        assert (await asyncio.wait_for(theirs, 10)).finish_reason == "cancelled"
        assert await client.read(many[-1].turn.id) is None
        assert (await asyncio.wait_for(many[-1], 60)).finish_reason == "cancelled"
        running.engine.gate.set()


async def test_a_turn_that_is_queued_behind_a_cancel_of_all_is_not_meant(
    client: Client, start_worker: StartWorker
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        first = await busy(running, client)
        before = await queue_up(client, 30)
        await client.cancel()
        after = (await queue_up(client, 1))[0]
        for answer in before:
            assert (await asyncio.wait_for(answer, 10)).finish_reason == "cancelled"
        running.engine.gate.set()
        assert (await asyncio.wait_for(after, 10)).text == "echo turn 0"
        assert (await first).finish_reason == "cancelled"


async def pulled(nc: NatsConnection) -> Delivery:
    puller = Puller(nc, subjects.turns_stream("m"), "interactive")
    await puller.start()
    delivery = await puller.pull(5.0)
    assert delivery is not None
    return delivery


async def test_cancels_that_come_while_a_turn_looks_for_its_own_are_no_error(
    client: Client, operator: NatsConnection
) -> None:
    cancels = Cancels(ModelQueue(operator, "m"), "m", "w", TurnsInHand(), lambda job: None)
    async with CancelListener(operator, "m", cancels):
        await client.cancel()
        turn = Turn(new_id(), "c", (Message("user", "hello"),))
        await client.publish(turn, "m")
        work = Work(await pulled(operator), TurnAddress("m", "interactive", LOCAL, turn.id), turn, "job")
        cancels.hear(CancelAddress(LOCAL), Cancel())
        looking = asyncio.ensure_future(cancels.of(work))
        for _ in range(20):
            await client.cancel(turn=new_id())
        assert await looking is None, "it was queued behind the cancel"


async def test_a_cancel_that_nobody_understands_keeps_no_turn_from_its_answer(
    client: Client, start_worker: StartWorker, nats_server: EmbeddedServer
) -> None:
    answer = client.ask("m", "hello")
    await answer.publish()
    nc = await connect(nats_server.address(OPERATOR), name="x")
    await nc.request(subjects.cancel_all(LOCAL), codec.encode(Cancel()) + b"garbage", timeout=5)
    await close(nc)
    async with start_worker():
        assert (await asyncio.wait_for(answer, 10)).text == "echo hello"
