"""Subjects, replies and headers that no library would send: they harm nobody who hears them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import Any

import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, subjects
from broker.accounts import LOCAL
from broker.answer import TurnFailed
from broker.client import Client
from broker.messages import DeadLetter, Failed, Message, ReplayRequest, Tool, Turn, new_id
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine, FakeRenderer
from tests.integration.conftest import StartWorker
from tests.raw_nats import raw_client
from workers.prompts.history import History
from workers.prompts.rendered import Rendered

CANCEL = b"cancel.local.turn.t"
ODD = {
    "a status that is no UTF-8": (CANCEL, b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", b""),
    "a description that is no UTF-8": (CANCEL, b"NATS/1.0 100 \xff\xfe\r\n\r\n", b""),
    "headers of one line without an end": (CANCEL, b"NATS/1.0", b""),
    "headers of another protocol": (CANCEL, b"garbage\xff", b""),
    "a subject that is no UTF-8": (b"cancel.local.turn.\xff\xfe", None, b""),
    "a subject with a vertical tab": (b"cancel.local.turn.a\x0bb", None, b""),
    "a subject with a NUL": (b"cancel.local.turn.a\x00b", None, b""),
    "a reply that is no UTF-8": (CANCEL, None, b"_INBOX_local.\xff\xfe"),
    "a reply with a form feed": (CANCEL, b"NATS/1.0\r\n\r\n", b"_INBOX_local.a\x0cb"),
}


@pytest.mark.parametrize("odd", ODD)
async def test_a_worker_hears_on_after(
    odd: str, nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    subject, headers, reply = ODD[odd]
    async with start_worker() as running, raw_client(nats_server.address(LOCAL)) as stranger:
        await stranger.publish(subject, b"x", headers, reply)
        await stranger.flush()
        async with asyncio.timeout(10):
            assert (await client.ask("m", "still there")).text == "echo still there"
        assert running.nc.stats["reconnects"] == 0


@pytest.mark.parametrize("subject", ["replay.local.t", "$SRV.PING", "$SRV.INFO", "$SRV.STATS.turnpike-worker"])
async def test_nobody_has_a_worker_write_the_end_of_anothers_turn(
    subject: str, nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    turn = new_id()
    async with start_worker() as running, raw_client(nats_server.address(LOCAL)) as stranger:
        asked = codec.encode(ReplayRequest())
        await stranger.publish(subject.encode(), asked, None, subjects.end("victim", turn).encode())
        await stranger.flush()
        # What it was to answer came before this turn, on the same connection.
        await client.ask("m", "hello")
        assert await jetstream.last_stored(running.nc, subjects.ENDS, subjects.end("victim", turn)) is None


@pytest.mark.parametrize("status", ["404", "408", "409\r\nDescription: Consumer Deleted", "503", "100"])
async def test_a_turn_that_looks_like_a_status_is_answered(
    status: str, nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    turn = new_id()
    async with start_worker(), raw_client(nats_server.address(LOCAL)) as stranger:
        subject = subjects.turn("m", "interactive", LOCAL, turn).encode()
        stored = await stranger.request(subject, b"", f"NATS/1.0\r\nStatus: {status}\r\n\r\n".encode())
        assert "seq" in json.loads(stored)
        async with asyncio.timeout(10):
            while (end := await client.read(turn)) is None:
                pass
    assert isinstance(end, Failed)
    assert end.code == "invalid_message"


async def test_a_stored_cancel_that_looks_like_a_status_costs_no_turn(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    async with start_worker(), raw_client(nats_server.address(LOCAL)) as stranger:
        stored = await stranger.request(b"cancel.local.conversation.c", b"x", b"NATS/1.0\r\nStatus: 503\r\n\r\n")
        assert "seq" in json.loads(stored)
        async with asyncio.timeout(10):
            assert (await client.ask("m", "hello", conversation="c")).text == "echo hello"


class Faulty(FakeRenderer):
    """Has a fault that one conversation brings out each time, and another one once."""

    def __init__(self) -> None:
        self.num_tries = 0

    async def render(
        self,
        messages: tuple[Message, ...],
        exact: Collection[int] = (),
        kwargs: dict[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> Rendered:
        if messages[-1].content == "odd" or (messages[-1].content == "rare" and not self.num_tries):
            self.num_tries += 1
            raise KeyError("a fault of ours")
        return await super().render(messages, exact)


async def test_a_fault_of_ours_is_tried_again_and_then_said(
    client: Client, start_worker: StartWorker, operator: NatsConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.turns.settlement.FAULT_SECONDS", 0.01)
    engine, renderer = FakeEngine(), Faulty()
    async with start_worker(engine, history=History(renderer, engine.vocabulary)), asyncio.timeout(20):
        assert (await client.ask("m", "rare")).text == "echo rare"
        answer = client.ask("m", "odd")
        with pytest.raises(TurnFailed, match="internal_error: KeyError") as caught:
            await answer
        assert caught.value.failed.retryable
        assert renderer.num_tries == 1 + 4
        assert (await client.ask("m", "even")).text == "echo even"
    stored = await jetstream.last_stored(operator, "DEAD", "dead.m")
    assert stored is not None
    assert codec.decode(codec.decode(stored.payload, DeadLetter).payload, Turn) == answer.turn
