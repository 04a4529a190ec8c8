"""What benchmarks exchange in a worker is in the way of its turns: a hook that is not called measures nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.client import Client as NatsConnection

from benchmarks.peers import OverHttp, http_client
from benchmarks.plain_worker import assemble_plain
from benchmarks.traced_worker import Tracing
from broker import replies
from broker.accounts import LOCAL, OPERATOR
from broker.client import Client
from broker.connection import connect
from broker.messages import Message, Sampling
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine, fake_worker
from tests.gateway import StartGateway
from tests.integration.conftest import StartWorker
from workers.assembly import Assembly
from workers.worker_options import WorkerOptions

ANSWER = "the whole answer"


@asynccontextmanager
async def worker_of(server: EmbeddedServer, assembly: Assembly) -> AsyncIterator[NatsConnection]:
    """A worker that was put together so, with the rights of whoever may publish to `live.>`."""
    nc = await connect(server.address(OPERATOR), name="w1")
    options = WorkerOptions("w1", "m", coalesce_seconds=0, pull_seconds=0.2)
    worker = fake_worker(nc, FakeEngine(answer=ANSWER), options, assembly=assembly)
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        yield nc
    finally:
        stop.set()
        await running
        await nc.close()


async def test_a_plain_workers_answer_is_read_and_nothing_of_it_is_stored(
    nats_server: EmbeddedServer, client: Client
) -> None:
    async with worker_of(nats_server, assemble_plain) as nc:
        answer = client.ask("m", "hello")
        text = "".join([chunk.text async for chunk in answer])
        assert text == answer.done.text == ANSWER
        assert answer.started is not None
        assert answer.done.num_chunks > 1
        assert await replies.read_replies(nc, LOCAL, answer.turn.id) == []


async def test_a_traced_worker_notes_each_token_once_before_it_is_read(
    nats_server: EmbeddedServer, client: Client
) -> None:
    tracing = Tracing()
    async with worker_of(nats_server, tracing.assemble):
        read_at = []
        async for chunk in client.ask("m", "hello"):
            read_at += [time.perf_counter()] * len(chunk.tokens)
    assert tracing.runner is not None
    chosen_at = tracing.runner.chosen_at
    assert len(chosen_at) == len(ANSWER)
    assert all(chosen < read for chosen, read in zip(chosen_at, read_at, strict=True))


async def test_the_same_is_read_over_http_as_by_our_client(
    start_worker: StartWorker, start_gateway: StartGateway, client: Client
) -> None:
    hello = [Message("user", "hello there")]
    async with start_worker(), start_gateway() as url, http_client(url) as http:
        peer = OverHttp(http)
        first = await peer.ask("a", hello, 16)
        again = await peer.ask("a", [*hello, Message("assistant", first.text), *hello], 8)
        done = await client.ask("m", hello, sampling=Sampling(max_tokens=16, ignore_eos=True))
    assert first.text == done.text
    assert first.num_prompt == first.num_computed == done.usage.prompt_tokens
    assert first.num_generated == done.usage.completion_tokens == 16
    assert 1 < len(first.times) <= 16
    assert first.sent_at < first.times[0] < first.times[-1]
    assert again.num_generated == 8
    assert 0 < again.num_computed < again.num_prompt - first.num_prompt
