"""A rolling upgrade: this release beside one with more fields, more kinds, more values and another wire version."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.micro import add_service
from nats.micro.service import EndpointConfig

from broker import codec, dead_letters, discovery, replies, subjects
from broker.accounts import GATEWAY, LOCAL, SIDECAR, WORKER
from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.connection import close, connect
from broker.messages import DeadLetter, Done, FetchRefused, HandedBack, Holding, Started
from broker.replies import ReplyWriter
from broker.server import EmbeddedServer
from producers.gateway.app import Gateway
from producers.gateway.keys import Keys
from producers.routing.policies import Routes
from tests.fakes import FIRST, FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import answer_to
from workers.kv.cache import OffloadCache

ANSWER = "the whole answer of the test"
SECONDS = 20


def packed(**fields: Any) -> bytes:
    found: bytes = msgpack.packb(fields)
    return found


def tokens(text: str) -> list[int]:
    return [ord(character) + FIRST for character in text]


@pytest.fixture
async def later(nats_server: EmbeddedServer) -> AsyncIterator[NatsConnection]:
    """The connection of a worker of a later release."""
    nc = await connect(nats_server.address(WORKER), name="later")
    yield nc
    await close(nc)


async def reply(nc: NatsConnection, answer: Answer, *payloads: bytes) -> None:
    for payload in payloads:
        await nc.request(subjects.reply(LOCAL, answer.turn.id), payload, timeout=5)


async def end(nc: NatsConnection, answer: Answer, payload: bytes) -> None:
    await nc.request(subjects.end(LOCAL, answer.turn.id), payload, timeout=5)


DONE = {
    "v": 1,
    "type": "done",
    "finish_reason": "paused",
    "text": ANSWER,
    "tokens": tokens(ANSWER),
    "usage": {"prompt_tokens": 1, "cached_tokens": 1, "completion_tokens": 28, "cached_in": "object", "reasoning": 5},
    "timings": {"queue_wait": 0, "prefill": 0, "decode": 0, "thinking": 1.0},
    "worker": "w9",
    "num_chunks": 5,
    "citations": [{"name": "x"}],
}


async def test_an_answer_with_more_kinds_fields_and_values_is_read(client: Client, later: NatsConnection) -> None:
    answer = client.ask("m", "hello")
    await answer.publish()
    await reply(
        later,
        answer,
        packed(v=1, type="started", index=0, attempt=0, worker="w9", gpu="yes"),
        packed(v=1, type="thinking", index=1, attempt=0, text="hm"),
        packed(v=1, type="chunk", index=2, attempt=0, text="the whole", tokens=tokens("the whole"), mood="good"),
        packed(v=1, type="note", index=3, attempt=0),
        packed(
            v=1,
            type="chunk",
            index=4,
            attempt=0,
            text=" answer",
            tokens=tokens(" answer"),
            text_offset=9,
            token_offset=9,
        ),
    )
    await end(later, answer, packed(**DONE))
    async with asyncio.timeout(SECONDS):
        chunks = [chunk async for chunk in answer]
    assert [chunk.text for chunk in chunks] == ["the whole", " answer", " of the test"]
    assert answer.done.finish_reason == "paused"
    assert answer.done.usage.cached_in == "object"


@pytest.mark.parametrize(
    "payload",
    [
        packed(v=2, type="done", answer=[{"text": "x"}]),
        packed(v=1, type="postponed", until=5),
        packed(v=1, type="done", finish_reason=["stop"]),
        b"\x93\x01\x02\x03",
    ],
)
async def test_an_end_that_is_not_understood_ends_the_answer_live_and_later(
    client: Client, later: NatsConnection, payload: bytes
) -> None:
    answer = client.ask("m", "hello")
    await answer.publish()
    await end(later, answer, payload)
    with pytest.raises(TurnFailed) as caught:
        async with asyncio.timeout(SECONDS):
            await answer
    assert caught.value.failed.code == "not_understood"
    found = await client.read(answer.turn.id)
    assert found is not None
    with pytest.raises(TurnFailed, match="not_understood"):
        async with asyncio.timeout(SECONDS):
            await client.follow(answer.turn.id)


async def test_another_wire_version_is_told_at_once_and_the_turn_is_stopped(
    client: Client, later: NatsConnection
) -> None:
    cancelled: asyncio.Queue[str] = asyncio.Queue()

    async def on_cancel(message: Msg) -> None:
        cancelled.put_nowait(message.subject)

    await later.subscribe("cancel.>", cb=on_cancel)
    await later.flush()
    answer = client.ask("m", "hello")
    await answer.publish()
    await reply(later, answer, packed(v=2, type="delta", index=0, attempt=0, parts=[]))
    with pytest.raises(TurnFailed, match="wire version 2 is not spoken here"):
        async with asyncio.timeout(SECONDS):
            await answer
    async with asyncio.timeout(SECONDS):
        assert await cancelled.get() == subjects.cancel_turn(LOCAL, answer.turn.id)


async def test_one_message_that_is_not_understood_costs_nothing(client: Client, later: NatsConnection) -> None:
    answer = client.ask("m", "hello")
    await answer.publish()
    await reply(
        later,
        answer,
        packed(v=1, type="started", index=0, attempt=0, worker="w9"),
        packed(v=1, type="hello"),
        b"\xc1",
        packed(v=1, type="chunk", index=1, attempt=0, text={"parts": ["the"]}),
        packed(v=1, type="chunk", index=2, attempt=0, text="the", tokens=tokens("the")),
    )
    await end(later, answer, packed(**DONE))
    async with asyncio.timeout(SECONDS):
        assert "".join([chunk.text async for chunk in answer]) == ANSWER


# --- What a later release's worker left half done ---


@pytest.mark.parametrize(
    ("left", "attempt"),
    [
        # Kinds without tokens of ours are passed over, and the answer goes on behind them.
        ([packed(v=1, type="thinking", index=2, attempt=0), packed(v=1, type="handed_back", index=3, attempt=0)], 0),
        # Chunks that are not understood are no ground to build upon.
        ([packed(v=1, type="chunk", index=2, attempt=0, text={"x": 1}, tokens=[1])], 1),
        ([packed(v=2, type="delta", index=2, attempt=4, parts=[])], 5),
        ([b"\xc1"], 1),
    ],
)
async def test_the_next_worker_goes_on_or_begins_anew(
    client: Client, later: NatsConnection, start_worker: StartWorker, left: list[bytes], attempt: int
) -> None:
    answer = client.ask("m", "hello")
    await answer.publish()
    writer = ReplyWriter(later, subjects.TurnAddress("m", "interactive", LOCAL, answer.turn.id), "w9")
    await writer.start("f")
    await writer.write("the", tuple(tokens("the")))
    await reply(later, answer, *left)
    async with start_worker(FakeEngine(answer=ANSWER)), asyncio.timeout(SECONDS):
        while (found := await client.read(answer.turn.id)) is None:
            await client.nc.flush()
        assert isinstance(found, Done)
        assert (found.text, found.attempt) == (ANSWER, attempt)
    stored = await replies.read_replies(later, LOCAL, answer.turn.id)
    started = [one.reply for one in stored if isinstance(one.reply, Started)]
    assert [one.worker for one in started] == ["w9", "w1"]
    assert started[1].index == 2 + len(left)
    assert not any(isinstance(one.reply, HandedBack) for one in stored if one.reply.index > 3)


async def test_a_turn_that_a_later_release_has_ended_is_not_computed_again(
    client: Client, later: NatsConnection, start_worker: StartWorker
) -> None:
    """Delivered a second time, as its worker died before it could acknowledge."""
    answer = client.ask("m", "hello")
    await answer.publish()
    await end(later, answer, packed(v=2, type="done"))
    inbox = later.new_inbox()
    pulled = await later.subscribe(inbox)
    await later.publish("$JS.API.CONSUMER.MSG.NEXT.TURNS-m.interactive", b'{"batch": 1}', reply=inbox)
    taken = await pulled.next_msg(timeout=5)
    await later.publish(taken.reply, b"-NAK")
    async with start_worker() as running, asyncio.timeout(SECONDS):
        await client.ask("m", "another")
        assert running.engine.num_samplers == 0
        assert running.worker.turns.recent.num_failed == 0
    assert (await replies.read_replies(later, LOCAL, answer.turn.id)) == []


# --- Cancels, the node, peers ---


async def test_a_cancel_for_a_reason_of_a_later_release_stops_the_turn(
    client: Client, start_worker: StartWorker
) -> None:
    async with start_worker(FakeEngine(answer="x" * 2000, step_seconds=0.01)), asyncio.timeout(SECONDS):
        answer = client.ask("m", "hello")
        chunks = aiter(answer)
        await anext(chunks)
        cancel = packed(v=1, reason="superseded", by={"turn": "x"})
        await client.nc.request(subjects.cancel_turn(LOCAL, answer.turn.id), cancel, timeout=5)
        async for _ in chunks:
            pass
        assert answer.done.finish_reason == "cancelled"


@pytest.mark.parametrize("payload", [packed(v=2, dry_run=True), b"\xc1", packed(v=1, sequence=-1)])
async def test_a_stored_cancel_that_is_not_understood_holds_up_no_turn(
    client: Client, start_worker: StartWorker, payload: bytes
) -> None:
    answer = client.ask("m", "hello")
    await answer.publish()
    await client.nc.request(subjects.cancel_all(LOCAL), payload, timeout=5)
    async with start_worker(), asyncio.timeout(SECONDS):
        assert (await answer).text == "echo hello"


async def test_a_peer_is_told_that_its_request_is_not_understood(
    later: NatsConnection, start_worker: StartWorker
) -> None:
    async with start_worker(offload_cache=OffloadCache(1_000_000), fetch_bytes_per_second=1e9):
        request = packed(v=1, type="open_many", conversations=["a", "b"])
        refused = await answer_to(later, subjects.kv("w1"), request)
        assert codec.decode(refused.data, FetchRefused) == FetchRefused("not_understood")


async def test_directory_and_node_of_a_later_release_hold_up_no_turn(
    client: Client, later: NatsConnection, start_worker: StartWorker, nats_server: EmbeddedServer
) -> None:
    holding = msgspec.to_builtins(Holding("w9", "f", 400, 1608)) | {"v": 2, "tier": "object"}
    async with (
        start_worker(offload_cache=OffloadCache(1_000_000), fetch_bytes_per_second=1e9) as running,
        asyncio.timeout(SECONDS),
    ):
        await later.publish(subjects.held("m", LOCAL, "c"), packed(**holding))
        await later.publish(subjects.queue("m", "interactive"), packed(v=2, at=5))
        sidecar = await connect(nats_server.address(SIDECAR), name="sidecar")
        await sidecar.publish(
            subjects.node("unknown"), packed(v=1, watts=7.5, celsius={"cpu": 50}, is_throttled="a little", rpm=900)
        )
        await close(sidecar)
        await client.ask("m", "one", conversation="c")
        done = await client.ask("m", "two", conversation="c")
        assert done.text == "echo two"
        while running.worker.node.state.watts != 7.5:
            await client.nc.flush()
        assert (running.worker.node.state.celsius, running.worker.node.state.is_throttled) == (None, None)


async def test_one_dead_letter_that_is_not_understood_hides_no_other(
    later: NatsConnection, operator: NatsConnection
) -> None:
    letter = DeadLetter("turn.m.interactive.local.t", "poison", 3, b"x")
    for payload in (packed(v=2, letters=[]), codec.encode(letter)):
        await later.request(subjects.dead("m"), payload, timeout=5)
    odd, good = await dead_letters.read(operator)
    assert good.letter == letter
    assert "not understood" in odd.letter.reason


# --- Discovery ---

LOAD = {"num_slots": 8, "num_active": 0, "num_pending": 0, "expected_wait_seconds": 0.5}
METADATA = {"worker": "w9", "model": "m", "model_name": "M", "quantization": "q", "num_ctx": "10", "node": "n"}


async def announce(nc: NatsConnection, load: Any, metadata: dict[str, Any], endpoints: tuple[str, ...] = ()) -> None:
    service = await add_service(
        nc,
        name=discovery.SERVICE,
        version="9.0.0",
        description="x",
        metadata=metadata,
        stats_handler=lambda endpoint: load if endpoint.name == "state" else {"later": 1},
    )

    async def answer(request: Any) -> None:
        await request.respond(b"{}")

    for endpoint in (*endpoints, "state"):
        await service.add_endpoint(EndpointConfig(name=endpoint, subject=f"x.{endpoint}", handler=answer))


@pytest.mark.parametrize(
    ("load", "metadata", "is_listed"),
    [
        (LOAD | {"gpu_share": 0.5, "state": "warming"}, METADATA | {"licence": "x", "can": "chat tools"}, True),
        (LOAD | {"celsius": {"cpu": 50}, "is_throttled": "a little"}, METADATA | {"pid": "none", "facts": "[1"}, True),
        (LOAD, METADATA | {"facts": json.dumps({"file_bytes": "many", "cores": 4}), "since": "yesterday"}, True),
        ({"num_slots": 8, "num_active": 0, "num_pending": 0}, METADATA, False),
        (LOAD | {"expected_wait_seconds": "soon"}, METADATA, False),
        ([1, 2], METADATA, False),
        (None, METADATA, False),
        (LOAD, METADATA | {"model": "a.b *"}, False),
        (LOAD, METADATA | {"num_ctx": "8k"}, False),
        (LOAD, {"worker": "w9"}, False),
    ],
)
async def test_an_answer_to_discovery_costs_its_own_worker_at_most(
    client: Client,
    later: NatsConnection,
    start_worker: StartWorker,
    load: Any,
    metadata: dict[str, Any],
    is_listed: bool,
) -> None:
    await announce(later, load, metadata, ("later",))
    async with start_worker(model="m"):
        found = await client.workers()
    assert [one.worker for one in found] == (["w1", "w9"] if is_listed else ["w1"])


async def test_answers_to_discovery_that_are_none_are_passed_over(
    client: Client, operator: NatsConnection, start_worker: StartWorker
) -> None:
    payloads = [b"", b"nonsense", b"[]", b"5", b'{"id": 5}', b'{"id": "x"}', b'{"id": "y", "metadata": 5}', b"[" * 9000]
    payloads += [b'{"id": "z", "metadata": {}, "endpoints": 5}', b'{"id": "q", "endpoints": [5]}', b"\xff\xfe"]

    async def answer(message: Msg) -> None:
        for payload in payloads:
            await operator.publish(message.reply, payload)

    for verb in ("INFO", "STATS"):
        await operator.subscribe(f"$SRV.{verb}.{discovery.SERVICE}", cb=answer)
    await operator.flush()
    async with start_worker():
        assert [one.worker for one in await client.workers()] == ["w1"]


async def test_a_gateway_goes_on_looking_whatever_it_is_answered(
    nats_server: EmbeddedServer, later: NatsConnection, start_worker: StartWorker
) -> None:
    await announce(later, {"num_slots": 8}, METADATA)
    nc = await connect(nats_server.address(GATEWAY), name="gateway")
    gateway = Gateway(nc, Keys(None), Routes(), node="n", version="0")
    looking = asyncio.create_task(gateway.look())
    async with start_worker(), asyncio.timeout(SECONDS):
        while [one.worker for one in gateway.workers] != ["w1"]:
            assert not looking.done()
            await nc.flush()
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await close(nc)
