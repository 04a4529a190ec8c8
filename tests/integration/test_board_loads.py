"""How soon a board's load begins, on a real server: woken by a turn, with a worker that was started ahead, and without
waiting for pulls that a worker which drains has open."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsConnection

from broker import jetstream, placing, subjects
from broker.accounts import BOARD, WORKER
from broker.client import Client
from broker.connection import close, connect
from broker.delivery import Puller
from broker.messages.boards import DRAINING, SERVING, Order
from broker.placing import Watch
from broker.priorities import INTERACTIVE
from broker.server import EmbeddedServer
from broker.topology import ensure
from tests.board_fakes import DONE, MIB, SECONDS, is_in, model_of, running_board, state_of, until
from workers.boards import queues
from workers.boards.queues import Queues
from workers.boards.spare import SPARE_BYTES

BOTH = {"a": "serves", "b": "serves"}


@pytest.fixture
def queue_names() -> list[str]:
    return ["a", "b"]


async def load(operator: NatsConnection, watch: Watch, model: str) -> None:
    """By order; comes back when its worker serves."""
    await until(watch, lambda found: model_of(found, model))
    await placing.order(operator, Order(model, load=True, sent_at=time.time()))
    await until(watch, is_in(model, SERVING))


# --- Woken ---


async def test_a_turn_wakes_a_board_that_has_no_round_until_then(
    nats_server: EmbeddedServer,
    client: Client,
    operator: NatsConnection,
    watch: Watch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queues, "QUIET_SECONDS", 600.0)
    async with running_board(nats_server, tmp_path, BOTH, memory_bytes=300 * MIB) as board:
        await load(operator, watch, "a")
        while await watch.changed(1.5):  # until it has nothing to say, and sleeps
            pass
        await client.ask("b", "hello").publish()
        await until(watch, is_in("b", SERVING))
        await board.end()


async def test_it_looks_seldom_where_nothing_waits_and_the_server_would_tell(
    nats_server: EmbeddedServer, operator: NatsConnection, client: Client
) -> None:
    nc = await connect(nats_server.address(BOARD), name="b")
    heard: asyncio.Queue[str] = asyncio.Queue()
    try:
        looking = Queues(nc)
        await looking.listen(heard.put_nowait)
        await nc.flush()
        await looking.look({"a", "b"}, set())
        assert looking.look_seconds == queues.QUIET_SECONDS
        await client.ask("b", "of no board").publish()
        async with asyncio.timeout(SECONDS):
            assert await heard.get() == "b"
        # As an earlier release has made it, it tells nothing.
        found = await jetstream.stream(operator, subjects.turns_stream("b"))
        assert found is not None
        await jetstream.update_stream(operator, {key: one for key, one in found.config.items() if key != "republish"})
        await looking.look({"a"}, set())
        assert looking.look_seconds == queues.LOOK_SECONDS
        assert await ensure(operator, ["a", "b"]) == ["stream TURNS-b: updated"]
    finally:
        await close(nc)


async def test_who_asks_for_a_prompt_alone_waits_for_the_model_as_others_do(
    nats_server: EmbeddedServer, client: Client
) -> None:
    nc = await connect(nats_server.address(BOARD), name="b")
    try:
        looking = Queues(nc)
        await client.ask("a", "hello", kind="prompt").publish()
        found = (await looking.look({"a"}, set()))["a"]
        assert (found.num_interactive, found.num_batch) == (1, 0)
    finally:
        await close(nc)


# --- Started ahead ---


async def test_a_worker_is_started_while_what_is_in_its_way_drains(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection, watch: Watch, tmp_path: Path
) -> None:
    manners = {"a": "busy", "b": "serves"}
    async with running_board(nats_server, tmp_path, manners, memory_bytes=190 * MIB, spare="serves") as board:
        await load(operator, watch, "a")
        assert board.models() == ["a"]
        await client.ask("b", "hello").publish()
        await until(watch, is_in("a", DRAINING))
        await until(watch, lambda found: board.models() == ["a", ""] or None)
        os.kill(board.started[0].pid, DONE)
        await until(watch, is_in("b", SERVING))
        assert board.models() == ["a", "b"]  # it was given its model
        await board.end()


async def test_a_board_keeps_a_worker_ready_and_starts_the_next_one_with_each_load(
    nats_server: EmbeddedServer, operator: NatsConnection, watch: Watch, tmp_path: Path
) -> None:
    memory_bytes = 100 * MIB + SPARE_BYTES
    kept = running_board(nats_server, tmp_path, BOTH, memory_bytes=memory_bytes, spare="serves", keeps_spare=True)
    async with kept as board:
        state = await until(watch, state_of)
        assert state.memory_bytes == 100 * MIB  # what it takes is for no model
        await load(operator, watch, "a")
        assert board.models() == ["a", ""]
        await load(operator, watch, "b")
        assert board.models() == ["a", "b", ""]
        ready = board.started[-1]
        await board.end()
    with pytest.raises(ProcessLookupError):
        os.kill(ready.pid, 0)


async def test_a_worker_that_ends_while_it_waits_for_its_model_is_not_started_in_a_loop(
    nats_server: EmbeddedServer,
    operator: NatsConnection,
    watch: Watch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = running_board(nats_server, tmp_path, {"a": "serves"}, memory_bytes=1 << 30, spare="serves", keeps_spare=True)
    async with kept as board:
        await until(watch, state_of)
        os.kill(board.started[0].pid, signal.SIGKILL)
        await until(watch, lambda found: "started ahead is lost" in caplog.text or None)
        await load(operator, watch, "a")
        assert [child.model for child in board.started if not child.has_ended] == ["a"]
        await board.end()


# --- Pulls that are taken back ---


async def test_an_open_pull_is_taken_back_and_no_turn_is_lost_to_it(
    nats_server: EmbeddedServer, client: Client
) -> None:
    """Whichever comes first, a turn or the end of the pull: it is handed over, or goes to the next one at once."""
    nc = await connect(nats_server.address(WORKER), name="w")
    try:
        for number in range(40):
            leaving, staying = (Puller(nc, subjects.turns_stream("a"), INTERACTIVE) for _ in range(2))
            closing = asyncio.Event()
            await leaving.start()
            await staying.start()
            pulled = asyncio.create_task(leaving.pull(30.0, closing))
            await nc.flush()
            published = asyncio.create_task(client.ask("a", f"{number}").publish())
            asyncio.get_running_loop().call_later(0.0002 * (number % 10), closing.set)  # before, with, behind the turn
            async with asyncio.timeout(SECONDS):
                found = await pulled
                await published
                found = found or await staying.pull(5.0)
            assert found is not None, number
            await found.ack()
            await staying.stop()
    finally:
        await close(nc)
