"""What is no turn, cannot be done, or is not a client's to do: refused with a reason, and no harm to anybody else."""

from __future__ import annotations

import asyncio
import time

import msgpack  # type: ignore[import-untyped]
import nats.errors
import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, subjects, topology
from broker.accounts import LOCAL
from broker.answer import TurnFailed
from broker.client import Client
from broker.errors import DuplicateTurn, PayloadTooLarge, QueueFull, UnservedModel
from broker.messages import DeadLetter, Failed, new_id
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.integration.test_turns import end_of, result, until_settled

# --- Bad input ---


# --- Bad input ---


async def test_an_unserved_model_fails_at_once(client: Client) -> None:
    with pytest.raises(UnservedModel, match="nobody"):
        await client.ask("nobody", "hello")


async def test_a_payload_over_the_servers_limit_fails_at_publish(client: Client) -> None:
    with pytest.raises(PayloadTooLarge, match="1,048,576"):
        await client.ask("m", "x" * 2 * 1024 * 1024)


async def test_a_full_queue_refuses_at_publish(client: Client, nats_server: EmbeddedServer) -> None:
    await nats_server.ensure(["m"], topology.Limits(max_queued_turns=2))
    for _ in range(2):
        await client.ask("m", "hello").publish()
    with pytest.raises(QueueFull, match="try again later"):
        await client.ask("m", "hello").publish()


async def test_a_turn_id_that_was_used_before_is_an_error(client: Client) -> None:
    turn = client.ask("m", "hello").turn
    await client.publish(turn, "m")
    with pytest.raises(DuplicateTurn):
        await client.publish(turn, "m")


GOOD = {"v": 1, "conversation": "c", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (b"this is not msgpack", "not msgpack"),
        ({"v": 9}, "wire version 9"),
        ({"messages": []}, "messages: must hold at least one"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"sampling": {"max_tokens": 0}}, "sampling.max_tokens"),
        ({"sampling": {"max_tokens": -5}}, "sampling.max_tokens"),
        ({"id": "another"}, "not the subject's turn"),
    ],
)
async def test_a_bad_turn_is_told_what_is_wrong_and_harms_no_other(
    client: Client,
    start_worker: StartWorker,
    operator: NatsConnection,
    change: bytes | dict[str, object],
    fragment: str,
) -> None:
    turn = new_id()
    payload = change if isinstance(change, bytes) else msgpack.packb({"id": turn} | GOOD | change)
    async with start_worker() as running:
        running.engine.gate.clear()
        other = asyncio.create_task(result(client.ask("m", "unharmed")))
        await asyncio.to_thread(running.engine.stepped.wait)
        await client.nc.request(subjects.turn("m", "interactive", LOCAL, turn), payload)
        end = await end_of(client, turn)
        running.engine.gate.set()
        assert (await other).text == "echo unharmed"
        await until_settled(operator)
    assert isinstance(end, Failed)
    assert end.code == "invalid_message"
    assert fragment in end.detail
    stored = await jetstream.last_stored(operator, "DEAD", "dead.m")
    assert stored is not None
    assert codec.decode(stored.payload, DeadLetter).payload == payload


async def test_a_prompt_longer_than_the_context_is_told_both_numbers(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(num_ctx=256)):
        with pytest.raises(TurnFailed, match=r"prompt_too_long.*256") as caught:
            await client.ask("m", "x" * 300)
        assert not caught.value.failed.retryable
        assert (await client.ask("m", "short")).text == "echo short"


async def test_a_turn_past_its_deadline_is_not_computed(client: Client, start_worker: StartWorker) -> None:
    async with start_worker() as running:
        with pytest.raises(TurnFailed, match="deadline"):
            await client.ask("m", "late", deadline=time.time() - 1)
        assert running.engine.num_steps == 0


async def test_a_turn_that_passes_its_deadline_while_it_runs_ends_then(
    client: Client, start_worker: StartWorker
) -> None:
    async with start_worker() as running:
        running.engine.gate.clear()
        with pytest.raises(TurnFailed, match="deadline"):
            await client.ask("m", "slow", deadline=time.time() + 0.2)


# --- Who may not, cannot ---


@pytest.mark.parametrize(
    "subject",
    [
        f"turn.m.urgent.{LOCAL}.x",  # no priority: no consumer would ever take it from the queue
        "turn.m.batch.bob.t1",
        "cancel.bob.turn.t1",
        "reply.local.t1",
        "end.local.t1",
        "$JS.API.DIRECT.GET.ENDS.end.bob.t1",
        "$JS.API.DIRECT.GET.ENDS",
        "$JS.API.STREAM.MSG.GET.ENDS",
        "$JS.API.CONSUMER.CREATE.ENDS",
        "$JS.API.STREAM.DELETE.ENDS",
        "$JS.API.CONSUMER.MSG.NEXT.TURNS-m.batch",
        "kv.w1",
        "$KV.HELD.m.local.c",
        "$JS.API.DIRECT.GET.KV_HELD.$KV.HELD.m.local.c",
    ],
)
async def test_a_producer_reaches_nobody_elses_messages(client: Client, operator: NatsConnection, subject: str) -> None:
    heard = await operator.subscribe(subject)
    await operator.flush()
    await client.nc.publish(subject, b"")
    with pytest.raises(nats.errors.Error, match=r"(?i)permission"):
        await _permissions_error(client.nc)
    assert heard.pending_msgs == 0


async def _permissions_error(nc: NatsConnection) -> None:
    await nc.flush()
    async with asyncio.timeout(5):
        while nc.last_error is None:
            await nc.flush()
    raise nc.last_error
