"""Boards on a real server: what waits is loaded, what is in its way drains, what dies or is broken is told."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client as NatsConnection

from broker import placing, points, subjects
from broker.accounts import BOARD, WORKER
from broker.client import Client
from broker.connection import close, connect
from broker.delivery import Puller
from broker.health import serve_health
from broker.messages.boards import (
    ALWAYS,
    AVAILABLE,
    BROKEN,
    DRAINING,
    LOADING,
    NEVER,
    SERVING,
    Claim,
    Order,
)
from broker.placing import Watch
from broker.priorities import BATCH, INTERACTIVE
from broker.server import EmbeddedServer
from tests.board_fakes import DONE, MIB, READY, SECONDS, Heard, is_in, model_of, running_board, state_of, until
from tests.integration.test_health import probe
from workers.boards.board import OtherBoard
from workers.boards.claims import Claims
from workers.boards.health import PATH, BoardHealth
from workers.boards.queues import Queues


@pytest.fixture
def queue_names() -> list[str]:
    return ["a", "b"]


@pytest.fixture
async def heard(operator: NatsConnection) -> Heard:
    heard = Heard()
    await heard.hear(operator)
    return heard


async def test_a_turn_has_its_model_loaded_and_what_is_in_its_way_drains(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection, watch: Watch, heard: Heard, tmp_path: Path
) -> None:
    async with running_board(nats_server, tmp_path, {"a": "busy", "b": "slow"}) as board:
        idle = await until(watch, lambda found: model_of(found, "a"))
        assert (idle.state, idle.planned_bytes) == (AVAILABLE, 100 * MIB)
        assert board.started == []
        await placing.order(operator, Order("a", load=True, sent_at=time.time()))
        serving = await until(watch, is_in("a", SERVING))
        assert (serving.num_slots, serving.num_in_hand) == (2, 1)
        assert watch.placement().claims == {("a", 0): Claim("b1", "a", 0)}
        await client.ask("b", "hello").publish()
        await until(watch, is_in("a", DRAINING))
        claims = await until(watch, lambda found: found.claims if ("b", 0) in found.claims else None)
        assert set(claims) == {("a", 0), ("b", 0)}
        assert board.models() == ["a"]  # not before the other one has gone
        board.signal(DONE)
        loading = await until(watch, is_in("b", LOADING))
        assert loading.file_bytes == 100 * MIB
        assert board.models() == ["a", "b"]
        read = await until(watch, lambda found: one if (one := model_of(found, "b")) and one.read_bytes else None)
        assert read.read_bytes == 1024
        board.signal(READY)
        await until(watch, is_in("b", SERVING))
        state = state_of(watch.placement())
        assert state is not None
        assert (state.num_swaps, state.loading_seconds > 0) == (1, True)
        assert (state.num_waited, state.waited_seconds, state.num_failed_loads) == (1, 1.5, 0)
        assert await until(watch, lambda found: ("a", 0) not in found.claims)
        await board.end()
        assert await until(watch, lambda found: not found.boards and not found.claims)
    first = await heard.first(points.MODEL_LOAD, model="a", outcome="served", why="ordered", num_unloaded=0)
    second = await heard.first(points.MODEL_LOAD, model="b", outcome="served", num_unloaded=1)
    assert (second.tags["node"], second.fields["file_bytes"]) == ("b1", 100 * MIB)
    total = float(first.fields["load_seconds"]) + float(second.fields["load_seconds"])
    gone = await heard.first(points.MODEL_UNLOAD, model="a", made_room_for="b", num_settled=1, num_waited=1)
    assert 0 < float(gone.fields["drain_seconds"]) < float(gone.fields["stay_seconds"])
    await heard.first(points.MODEL_UNLOAD, model="b", why="board stops", made_room_for="-")
    last = await heard.first(points.BOARD, node="b1", num_swaps=1, num_loads=2, num_waited=1, num_loaded=0)
    assert last.fields["loading_seconds"] == pytest.approx(total)
    assert last.fields["memory_bytes"] == 150 * MIB
    loaded = await heard.first(points.EVENT, kind="model loaded", node="b1")
    assert str(loaded.fields["text"]).startswith("a on b1 in ")
    unloaded = await heard.first(points.EVENT, kind="model unloaded", node="b1")
    assert str(unloaded.fields["text"]).endswith(", for b")


async def test_what_waits_is_told_also_while_its_model_loads(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path
) -> None:
    async with running_board(nats_server, tmp_path, {"a": "slow"}) as board:
        for priority in (INTERACTIVE, BATCH):
            await client.ask("a", "hello", priority=priority).publish()
        await until(watch, is_in("a", LOADING))
        await client.ask("a", "hello").publish()
        waiting = await until(
            watch, lambda found: one if (one := model_of(found, "a")) and one.num_waiting > 1 else None
        )
        assert (waiting.state, waiting.num_waiting, waiting.num_waiting_batch) == (LOADING, 2, 1)
        board.signal(READY)
        await until(watch, is_in("a", SERVING))
        await board.end()


async def test_a_broken_model_is_tried_once_and_told(
    nats_server: EmbeddedServer,
    client: Client,
    watch: Watch,
    heard: Heard,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with running_board(nats_server, tmp_path, {"a": "broken", "b": "serves"}) as board:
        await client.ask("a", "hello").publish()
        broken = await until(watch, is_in("a", BROKEN))
        assert broken.reason == "model file m.gguf: is no model"
        assert 5 < broken.retry_at - time.time() < 11
        # The board goes on with what is not broken, and does not come back to this one meanwhile.
        await client.ask("b", "hello").publish()
        await until(watch, is_in("b", SERVING))
        assert board.models() == ["a", "b"]
        assert ("a", 0) not in watch.placement().claims
        async with serve_health(
            0,
            live=lambda: None,
            ready=lambda: None,
            reports={PATH: lambda: board.supervisor.health(None)},
            host="127.0.0.1",
        ) as port:
            status, body = await probe(port, PATH)
            assert (await probe(port, "/else"))[1] == "unknown path: /live, /ready or /healthz"
        told = {one.model: one for one in msgspec.json.decode(body, type=BoardHealth).models}
        assert (status, told["a"].reason) == (200, "model file m.gguf: is no model")
        assert (told["b"].state, told["b"].pid, told["b"].trouble) == (SERVING, board.started[1].pid, None)
        await board.end()
    failed = await heard.first(points.MODEL_LOAD, model="a", outcome="failed")
    assert failed.fields["reason"] == "model file m.gguf: is no model"
    await heard.first(points.EVENT, kind="model failed", text="a on b1: model file m.gguf: is no model")
    await heard.first(points.BOARD_MODEL, model="a", state="broken", loaded_ratio=0.0)
    await heard.first(points.BOARD, num_failed_loads=1, num_broken=1, num_loads=1)
    said = capfd.readouterr().err.splitlines()
    assert "a | starting a" in said
    assert "a | turnpike: model file m.gguf: is no model" in said
    assert "b | drained" in said


async def test_a_worker_that_is_killed_is_started_again(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path
) -> None:
    async with running_board(nats_server, tmp_path, {"a": "serves"}) as board:
        await client.ask("a", "hello").publish()
        await until(watch, is_in("a", SERVING))
        board.signal(signal.SIGKILL)
        died = await until(watch, lambda found: one if (one := model_of(found, "a")) and one.reason else None)
        assert died.reason.startswith("its worker was ended by SIGKILL")
        assert died.is_passing, "its turns wait for it"
        await until(watch, is_in("a", SERVING))
        assert board.models() == ["a", "a"]
        await board.end()


async def test_of_two_boards_one_loads_what_waits(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path
) -> None:
    manners = {"a": "serves"}
    async with (
        running_board(nats_server, tmp_path, manners, name="b1") as first,
        running_board(nats_server, tmp_path, manners, name="b2") as second,
    ):
        await until(watch, lambda found: len(found.boards) == 2)
        await client.ask("a", "hello").publish()
        await until(watch, lambda found: is_in("a", SERVING)(found) or is_in("a", SERVING, "b2")(found))
        assert len(first.started) + len(second.started) == 1
        assert list(watch.placement().claims) == [("a", 0)]
        await first.end()
        await second.end()


async def test_pins_are_obeyed_and_settings_pin_what_nobody_ordered(
    nats_server: EmbeddedServer, operator: NatsConnection, watch: Watch, tmp_path: Path
) -> None:
    manners = {"a": "serves", "b": "serves"}
    async with running_board(nats_server, tmp_path, manners, pins=frozenset({"a"})) as board:
        pinned = await until(watch, is_in("a", SERVING))
        assert pinned.pin == ALWAYS
        await placing.order(operator, Order("a", pin=NEVER, sent_at=time.time()))
        refused = await until(watch, is_in("a", AVAILABLE))
        assert refused.pin == NEVER
        await placing.order(operator, Order("b", "b1", load=True, sent_at=time.time()))
        await until(watch, is_in("b", SERVING))
        await placing.order(operator, Order("b", "b1", load=False, sent_at=time.time()))
        await until(watch, is_in("b", AVAILABLE))
        assert board.models() == ["a", "b"]
        await board.end()


async def test_the_second_signal_has_workers_hand_back_what_they_have(
    nats_server: EmbeddedServer, watch: Watch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_board(nats_server, tmp_path, {"a": "busy"}, pins=frozenset({"a"})) as board:
        await until(watch, is_in("a", SERVING))
        board.stop.set()
        draining = is_in("a", DRAINING)
        await until(watch, lambda found: (one := draining(found)) is not None and one.num_in_hand == 2)
        board.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await board.task
        assert await until(watch, lambda found: not found.boards and not found.claims)
    assert "a | handed back" in capfd.readouterr().err.splitlines()


async def test_a_model_that_loads_when_the_board_ends_goes_at_once(
    nats_server: EmbeddedServer, watch: Watch, tmp_path: Path
) -> None:
    async with running_board(nats_server, tmp_path, {"a": "slow"}, pins=frozenset({"a"})) as board:
        await until(watch, is_in("a", LOADING))
        await board.end()
        with pytest.raises(ProcessLookupError):
            os.kill(board.started[0].pid, 0)


async def test_of_two_that_say_they_are_one_board_the_later_one_ends(
    nats_server: EmbeddedServer, watch: Watch, tmp_path: Path
) -> None:
    async with running_board(nats_server, tmp_path, {"a": "serves"}) as first:
        began = await until(watch, state_of)
        async with running_board(nats_server, tmp_path, {"a": "serves"}) as second:
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.timeout(SECONDS):
                    await second.task
            assert caught.group_contains(OtherBoard)
        await until(watch, lambda found: ((one := state_of(found)) and one.sent_at > began.sent_at) or None)
        assert not first.task.done()
        await first.end()


async def test_what_a_dead_worker_had_waits_again_and_what_another_has_does_not(
    nats_server: EmbeddedServer, client: Client
) -> None:
    nc, worker = (
        await connect(nats_server.address(BOARD), name="b"),
        await connect(nats_server.address(WORKER), name="w"),
    )
    try:
        queues = Queues(nc)
        assert await queues.look({"a", "b"}, set()) == {}
        before = time.time()
        await client.ask("a", "one").publish()
        await client.ask("a", "two", priority=BATCH).publish()
        await client.ask("b", "of no board").publish()
        found = await queues.look({"a"}, set())
        assert set(found) == {"a"}
        assert (found["a"].num_interactive, found["a"].num_batch) == (1, 1)
        assert 0 <= found["a"].oldest_interactive_seconds <= time.time() - before + 1
        puller = Puller(worker, subjects.turns_stream("a"), INTERACTIVE)
        await puller.start()
        assert await puller.pull(0) is not None
        assert (await queues.look({"a"}, {"a"}))["a"].num_interactive == 0
        left = (await queues.look({"a"}, set()))["a"]
        assert left.num_interactive == 1
        assert left.oldest_interactive_seconds > 0
        await client.ask("a", "three").publish()
        assert (await queues.look({"a"}, {"a"}))["a"].num_interactive == 1
    finally:
        await close(nc)
        await close(worker)


async def test_a_copy_that_another_board_has_counts_as_lost(
    nats_server: EmbeddedServer, operator: NatsConnection
) -> None:
    assert await placing.claim(operator, Claim("b2", "a", 0))
    claims = Claims(operator, "b1")
    assert not await claims.take("a", 0)
    assert await claims.take("a", 1)
    assert claims.num_lost == 1
