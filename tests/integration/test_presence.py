"""Workers among others: who leaves says so first, and a model is served from one file."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import logging
import time
from collections.abc import Collection
from typing import Any

import pytest
from rich.console import Console

from broker import discovery
from broker.accounts import GATEWAY, WORKER
from broker.client import Client
from broker.connection import close, connect
from broker.discovery import (
    CHAT,
    DRAINING,
    OF_RELEASE,
    RAW,
    SCORE,
    SERVING,
    STARTING,
    THINKING,
    TOOLS,
    Load,
    WorkerInfo,
    departures,
)
from broker.errors import OtherFile, TurnRejected, UnservedModel
from broker.messages import Message, Tool
from broker.server import EmbeddedServer
from producers.commands.top import Picture, Queued, _shown
from producers.gateway.app import Gateway
from producers.gateway.keys import Keys
from producers.gateway.seen import STALE_SECONDS, Seen
from producers.routing.policies import Routes, choose
from tests.fakes import FakeEngine, FakeRenderer
from tests.integration.conftest import StartWorker
from workers.prompts.rendered import Rendered
from workers.reporting.presence import abilities

SECONDS = 20


async def seen(client: Client, name: str = "w1") -> WorkerInfo:
    """Asked until it answers: a busy machine may answer late."""
    async with asyncio.timeout(SECONDS):
        while True:
            for one in await client.workers():
                if one.worker == name:
                    return one


# --- Leaving ---


async def test_a_worker_that_drains_says_so_first_and_is_shown_until_it_has_gone(
    client: Client, start_worker: StartWorker
) -> None:
    engine = FakeEngine(num_slots=2)
    left: asyncio.Queue[str] = asyncio.Queue()
    async with departures(client.nc, left.put_nowait), start_worker(engine) as running:
        await client.nc.flush()
        assert (await seen(client)).load.state == SERVING
        engine.gate.clear()
        busy = client.ask("m", "busy")
        await busy.publish()
        await asyncio.to_thread(engine.entered.wait, SECONDS)
        running.stop.set()
        async with asyncio.timeout(SECONDS):
            assert await left.get() == "w1"
        found = await seen(client)
        assert found.load.state == DRAINING
        assert not found.is_serving
        with pytest.raises(UnservedModel):
            choose(Routes(), "auto", [found])
        assert not await client.is_served("m")
        assert await client.served("m") == []
        engine.gate.set()
        assert (await busy).text == "echo busy"
        await running.task
        assert await client.workers() == []


async def test_a_gateway_forgets_a_worker_that_drains_at_once(
    nats_server: EmbeddedServer, start_worker: StartWorker, client: Client
) -> None:
    nc = await connect(nats_server.address(GATEWAY), name="gateway")
    gateway = Gateway(nc, Keys(None), Routes(), node="n", version="0")
    looking = asyncio.create_task(gateway.look())
    engine = FakeEngine()
    async with start_worker(engine) as running, asyncio.timeout(SECONDS):
        while not any(one.is_serving for one in gateway.workers):
            await nc.flush()
        running.stop.set()
        # Long before it would be forgotten for its silence.
        async with asyncio.timeout(STALE_SECONDS / 2):
            while any(one.is_serving for one in gateway.workers):
                await nc.flush()
        with pytest.raises(UnservedModel):
            choose(Routes(), "auto", gateway.workers)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await close(nc)


def info(name: str = "w1", state: str = SERVING) -> WorkerInfo:
    return WorkerInfo(name, "m", "M", "q", 100, "n", Load(1, 0, 0, 0.0, state=state))


def test_an_answer_from_before_a_worker_left_does_not_bring_it_back() -> None:
    known = Seen()
    known.note([info(), info("w2")], asked_at=1.0)
    known.leave("w1")
    known.note([info(), info("w2")], asked_at=1.0)  # asked before, noted after
    assert {one.worker: one.is_serving for one in known.workers} == {"w1": False, "w2": True}
    known.note([info("w1", DRAINING)], asked_at=1e18)
    found = known.get("w1")
    assert found is not None
    assert not found.is_serving
    known.note([info()], asked_at=1e18)  # started anew under its name
    assert all(one.is_serving for one in known.workers)


async def test_a_turn_for_a_worker_that_was_chosen_just_before_it_left_is_answered(
    client: Client, start_worker: StartWorker
) -> None:
    """Its only worker is idle, and a client that asked around sends its turn as the worker stops."""
    async with start_worker() as running, departures(client.nc, lambda _: heard.set()):
        heard = asyncio.Event()
        await client.nc.flush()
        await asyncio.wait_for(running.worker.puller._interactive_is_idle.wait(), SECONDS)
        running.stop.set()
        await asyncio.wait_for(heard.wait(), SECONDS)
        async with asyncio.timeout(SECONDS):
            assert (await client.ask("m", "just now")).text == "echo just now"


async def test_a_forced_stop_says_so_too(client: Client, start_worker: StartWorker) -> None:
    left: asyncio.Queue[str] = asyncio.Queue()
    async with departures(client.nc, left.put_nowait), start_worker() as running:
        await client.nc.flush()
        running.task.cancel()
        async with asyncio.timeout(SECONDS):
            assert await left.get() == "w1"


def test_what_drains_is_shown_as_such() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    queues = [Queued("m", {"interactive": 0}, {"interactive": 1})]
    console.print(_shown(Picture([info("w1", DRAINING), info("w2")], queues)))
    text = console.export_text()
    assert "1, 1 draining" in text
    (line,) = [line for line in text.splitlines() if "w1" in line]
    assert "draining" in line
    assert "draining" not in next(line for line in text.splitlines() if "w2" in line)


async def test_the_wait_of_a_priority_does_not_count_what_waits_behind_it(
    client: Client, start_worker: StartWorker
) -> None:
    engine = FakeEngine(num_slots=4, answer="y" * 50)
    async with start_worker(engine) as running:
        engine.gate.clear()
        answers = [client.ask("m", f"{number}", priority="batch") for number in range(40)]
        await asyncio.gather(*(answer.publish() for answer in answers))
        async with asyncio.timeout(SECONDS):
            while running.worker.puller._occupancy.num_held < 4:
                await client.nc.flush()
        load = (await seen(client)).load
        # One turn's time for a slot to be free; behind all others for batch.
        assert load.expected_wait_seconds == pytest.approx(10.0 / 4)
        assert load.num_pending_batch >= 30
        assert load.batch_wait_seconds is not None
        assert load.batch_wait_seconds >= 30 * 10.0 / 4
        await client.cancel()


# --- One file ---


async def test_a_worker_with_another_file_is_refused(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(fingerprint="f"):
        with pytest.raises(OtherFile) as caught:
            async with start_worker(name="w2", fingerprint="other"):
                pass
        assert "served by w1 on unknown from another file" in str(caught.value)
        assert "--allow-other-file" in str(caught.value)
        assert [one.worker for one in await client.workers()] == ["w1"]
        async with start_worker(name="w3", fingerprint="f"):
            assert (await seen(client, "w3")).fingerprint == "f"


async def test_it_is_taken_where_the_file_is_changed_worker_by_worker(
    client: Client, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    async with start_worker(fingerprint="f") as old:
        with caplog.at_level(logging.WARNING, "workers.reporting.presence"):
            async with start_worker(name="w2", fingerprint="other", may_differ=True):
                assert "from another file" in caplog.text
                old.stop.set()
                await old.task
                # Those with the new file need no permission any more.
                async with start_worker(name="w3", fingerprint="other"):
                    assert (await client.ask("m", "hello")).text == "echo hello"


async def test_a_worker_that_drains_is_in_nobodys_way(client: Client, start_worker: StartWorker) -> None:
    engine = FakeEngine(num_slots=1)  # with another slot free it would still take who had not heard that it leaves
    async with start_worker(engine, fingerprint="f") as old:
        engine.gate.clear()
        busy = client.ask("m", "busy")
        await busy.publish()
        await asyncio.to_thread(engine.entered.wait, SECONDS)
        old.stop.set()
        async with asyncio.timeout(SECONDS):
            while (await seen(client)).is_serving:
                pass
        async with start_worker(name="w2", fingerprint="other"):
            assert (await client.ask("m", "hello")).text == "echo hello"
        engine.gate.set()
        await busy


async def test_of_two_that_start_at_once_with_two_files_one_stays(
    client: Client, start_worker: StartWorker, nats_server: EmbeddedServer
) -> None:
    async def start(name: str, stack: contextlib.AsyncExitStack) -> bool:
        try:
            await stack.enter_async_context(start_worker(name=name, fingerprint=name))
        except OtherFile:
            return False
        return True

    async with contextlib.AsyncExitStack() as stack:
        stays = await asyncio.gather(start("w1", stack), start("w2", stack))
        assert sorted(stays) == [False, True]
        assert (await client.ask("m", "hello")).text == "echo hello"


async def test_one_that_came_later_and_had_not_seen_it_stays(
    nats_server: EmbeddedServer, start_worker: StartWorker
) -> None:
    nc = await connect(nats_server.address(WORKER), name="later")
    metadata = {"worker": "w9", "model": "m", "model_name": "M", "quantization": "q", "num_ctx": "10", "node": "n"}
    metadata |= {"fingerprint": "other", "since": repr(time.time() + 60)}
    states = itertools.chain([STARTING] * 2, itertools.repeat(SERVING))  # it had looked, and then begins to serve
    await discovery.announce(
        nc, version="0.1.0", metadata=metadata, load=lambda: Load(1, 0, 0, 0.0, state=next(states))
    )
    with pytest.raises(OtherFile):
        async with start_worker(fingerprint="f"):
            pass
    await close(nc)


async def test_a_worker_of_an_earlier_release_is_compared_by_its_files_bytes(
    nats_server: EmbeddedServer, start_worker: StartWorker
) -> None:
    nc = await connect(nats_server.address(WORKER), name="earlier")
    metadata = {"worker": "w9", "model": "m", "model_name": "M", "quantization": "q", "num_ctx": "10", "node": "n"}
    metadata["facts"] = '{"file_bytes": "12"}'
    await discovery.announce(nc, version="0.1.0", metadata=metadata, load=lambda: Load(1, 0, 0, 0.0))
    with pytest.raises(OtherFile):
        async with start_worker(facts={"file_bytes": "13"}):
            pass
    async with start_worker(facts={"file_bytes": "12"}):
        pass
    await close(nc)


# --- What it can ---


class Refusing(FakeRenderer):
    """Of a model file without a template."""

    async def render(
        self,
        messages: tuple[Message, ...],
        exact: Collection[int] = (),
        kwargs: dict[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> Rendered:
        raise TurnRejected("invalid_template", "the model file has no chat template")


async def test_a_worker_tells_what_it_can(client: Client, start_worker: StartWorker) -> None:
    assert await abilities(FakeRenderer()) == (CHAT, RAW, SCORE, TOOLS, *OF_RELEASE)
    assert await abilities(FakeRenderer(), has_thoughts=True) == (CHAT, RAW, SCORE, TOOLS, *OF_RELEASE, THINKING)
    assert await abilities(Refusing(), has_thoughts=True) == (RAW, SCORE, *OF_RELEASE)
    async with start_worker(can=(RAW, SCORE)):
        found = await seen(client)
    assert found.can == (RAW, SCORE)
    assert not found.does(CHAT)
    assert found.since > 0
