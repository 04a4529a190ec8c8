"""Boards that are killed, cut off, stopped or left alone by their server, at the moments where that could cost a turn
its model: nobody loads what another one does, and what was claimed by the dead is another's soon."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from nats.aio.client import Client as NatsConnection

from broker import model_status, placing
from broker.accounts import BOARD
from broker.client import Client
from broker.connection import close, connect
from broker.messages.boards import AVAILABLE, BROKEN, DRAINING, LOADING, SERVING, Claim, Order
from broker.placing import Placement, Watch
from broker.process import EXIT_INTERRUPTED
from broker.server import EmbeddedServer
from tests.board_fakes import (
    MIB,
    READY,
    SECONDS,
    board_process,
    children_of,
    is_gone,
    is_in,
    model_of,
    running_board,
    soon_forgotten,
    state_of,
    until,
)
from tests.cut_line import line_to
from tests.support import free_port, freeze
from workers.boards import presence
from workers.boards.claims import Claims
from workers.boards.spare import SPARE_BYTES

EXPIRES = 2


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "server", port=free_port()) as nats_server:
        await nats_server.ensure(["a", "b"])
        yield nats_server


@pytest.fixture
async def watch(operator: NatsConnection) -> AsyncIterator[Watch]:
    with soon_forgotten(EXPIRES):
        async with Watch(operator) as watch:
            yield watch


def claims_of(placement: Placement) -> dict[tuple[str, int], str]:
    return {key: claim.board for key, claim in placement.claims.items()}


async def killed(process: asyncio.subprocess.Process) -> None:
    """With SIGKILL, and all its workers with it."""
    workers = [os.pidfd_open(pid) for pid in children_of(process.pid)]
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    for worker in workers:
        assert await is_gone(worker)
    await process.wait()


async def test_a_board_that_is_killed_while_it_loads_leaves_the_model_to_another(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path
) -> None:
    async with board_process(nats_server, tmp_path, {"a": "slow"}, expires=EXPIRES) as first:
        await client.ask("a", "hello").publish()
        await until(watch, is_in("a", LOADING))
        async with running_board(nats_server, tmp_path, {"a": "serves"}, name="b2") as second:
            await until(watch, lambda found: state_of(found, "b2"))
            await killed(first)
            began = time.monotonic()
            await until(watch, is_in("a", SERVING, "b2"))
            assert time.monotonic() - began < EXPIRES + 5
            assert second.models() == ["a"]
            assert claims_of(await until(watch, taken_over)) == {("a", 0): "b2"}
            await second.end()


def taken_over(found: Placement) -> Placement | None:
    return found if set(claims_of(found).values()) == {"b2"} else None


async def test_a_board_that_is_killed_between_a_claim_and_its_load_leaves_what_it_drains_and_what_it_claimed(
    nats_server: EmbeddedServer, client: Client, operator: NatsConnection, watch: Watch, tmp_path: Path
) -> None:
    async with board_process(nats_server, tmp_path, {"a": "busy", "b": "serves"}, expires=EXPIRES) as first:
        await client.ask("a", "hello").publish()
        await until(watch, is_in("a", SERVING))
        await client.ask("b", "hello").publish()
        await until(watch, is_in("a", DRAINING))
        claimed = await until(watch, lambda found: found if ("b", 0) in found.claims else None)
        told = model_of(claimed, "b")
        assert told is None or told.state == AVAILABLE
        async with running_board(nats_server, tmp_path, {"b": "serves"}, name="b2") as second:
            await until(watch, lambda found: state_of(found, "b2"))
            assert second.models() == [], "it is claimed"
            await killed(first)
            await until(watch, is_in("b", SERVING, "b2"))
            assert second.models() == ["b"]
            assert claims_of(watch.placement())["b", 0] == "b2"
            await second.end()
        async with running_board(nats_server, tmp_path, {"a": "serves"}, name="b3") as third:
            await until(watch, is_in("a", SERVING, "b3"))
            await third.end()


async def test_a_board_in_place_of_one_that_was_killed_goes_on_with_what_that_one_had_claimed(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path
) -> None:
    async with board_process(nats_server, tmp_path, {"a": "slow"}, expires=60) as first:
        await client.ask("a", "hello").publish()
        await until(watch, lambda found: found.claims)
        await until(watch, is_in("a", LOADING))
        await killed(first)
    async with running_board(nats_server, tmp_path, {"a": "serves"}) as again:
        await until(watch, is_in("a", SERVING))
        assert again.models() == ["a"]
        await again.end()


@pytest.mark.parametrize("manner", ["slow", "serves"])
async def test_a_board_that_was_cut_off_sees_who_has_taken_over_and_they_do_not_fight(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path, manner: str
) -> None:
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(line_to(nats_server.url))
        far = replace(nats_server.address(BOARD), url=line.url)
        first = await stack.enter_async_context(running_board(far, tmp_path, {"a": manner}))
        await client.ask("a", "hello").publish()
        await until(watch, is_in("a", LOADING if manner == "slow" else SERVING))
        second = await stack.enter_async_context(running_board(nats_server, tmp_path, {"a": "slow"}, name="b2"))
        await until(watch, lambda found: state_of(found, "b2"))
        await line.cut()
        await until(watch, is_in("a", LOADING, "b2"))
        assert claims_of(watch.placement()) == {("a", 0): "b2"}
        await line.open()
        if manner == "slow":  # it has not begun to serve: who has the claim loads
            await until(watch, is_in("a", AVAILABLE))
            assert claims_of(watch.placement()) == {("a", 0): "b2"}
        else:  # it serves: it is one more
            await until(watch, lambda found: claims_of(found) == {("a", 0): "b2", ("a", 1): "b1"})
            assert is_in("a", SERVING)(await until(watch, lambda found: found if state_of(found) else None))
        second.signal(READY)
        await until(watch, is_in("a", SERVING, "b2"))
        assert (first.models(), second.models()) == (["a"], ["a"])
        await first.end()
        await second.end()


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_board_whose_server_was_away_does_not_load_what_one_has_that_comes_back_later(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "SETTLE_SECONDS", 1000.0)
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(line_to(nats_server.url))
        far = replace(nats_server.address(BOARD), url=line.url)
        first = await stack.enter_async_context(running_board(far, tmp_path, {"a": "serves"}))
        await client.ask("a", "hello").publish()
        await until(watch, is_in("a", SERVING))
        has, memory_bytes = {"a": "serves", "b": "serves"}, 250 * MIB
        second = await stack.enter_async_context(
            running_board(nats_server, tmp_path, has, name="b2", memory_bytes=memory_bytes)
        )
        await until(watch, lambda found: state_of(found, "b2"))
        await line.cut()
        await nats_server.kill() if how == "killed" else freeze(nats_server.pid)
        await until(watch, lambda found: not found.boards and not found.claims)
        await nats_server.start() if how == "killed" else os.kill(nats_server.pid, signal.SIGCONT)
        await until(watch, lambda found: state_of(found, "b2"))
        await client.ask("b", "hello").publish()
        await line.open()
        await until(watch, lambda found: found if claims_of(found) == {("a", 0): "b1"} and state_of(found) else None)
        monkeypatch.setattr(presence, "SETTLE_SECONDS", 0.0)
        await until(watch, is_in("b", SERVING, "b2"))  # it decides again
        assert (first.models(), second.models()) == (["a"], ["b"])
        assert claims_of(await until(watch, lambda found: found if len(found.claims) == 2 else None)) == {
            ("a", 0): "b1",
            ("b", 0): "b2",
        }
        await first.end()
        await second.end()


async def test_a_worker_that_hangs_is_replaced_and_one_that_is_only_slow_is_not(
    nats_server: EmbeddedServer, operator: NatsConnection, watch: Watch, tmp_path: Path
) -> None:
    pins, manners = frozenset({"a", "b"}), {"a": "steady", "b": "steady"}
    async with running_board(
        nats_server, tmp_path, manners, pins=pins, memory_bytes=250 * MIB, silent_seconds=1.5
    ) as board:
        for model in manners:
            await until(watch, is_in(model, SERVING))
        hung = next(child for child in board.started if child.model == "a")
        os.kill(hung.pid, signal.SIGSTOP)
        broken = await until(watch, is_in("a", BROKEN))
        assert "it has said nothing for" in broken.reason
        await until(watch, is_in("a", SERVING))
        assert sorted(board.models()) == ["a", "a", "b"]
        board.task.cancel()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_that_was_started_ahead_and_is_lost_is_given_no_model(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path, number: signal.Signals
) -> None:
    manners = {"a": "steady", "b": "steady"}
    async with running_board(
        nats_server,
        tmp_path,
        manners,
        memory_bytes=200 * MIB + SPARE_BYTES,
        silent_seconds=1.5,
        spare="steady",
        keeps_spare=True,
    ) as board:
        await client.ask("a", "hello").publish()
        await until(watch, is_in("a", SERVING))
        assert board.models()[0] == "a", "it was there"
        async with asyncio.timeout(SECONDS):
            while len(board.started) < 2:
                await watch.changed(0.1)
        spare = os.pidfd_open(board.started[1].pid)
        os.kill(board.started[1].pid, number)
        if number == signal.SIGSTOP:
            assert await is_gone(spare), "it is ended"
        else:
            os.close(spare)
        await client.ask("b", "hello").publish()
        await until(watch, is_in("b", SERVING))
        assert board.models()[:3] == ["a", "", "b"]
        await board.end()


async def test_a_model_whose_worker_is_killed_is_waited_for_until_that_is_no_accident(
    nats_server: EmbeddedServer, watch: Watch, tmp_path: Path
) -> None:
    async with running_board(nats_server, tmp_path, {"a": "slow"}, pins=frozenset({"a"})) as board:
        await until(watch, is_in("a", LOADING))
        board.signal(signal.SIGKILL)
        broken = await until(watch, is_in("a", BROKEN))
        assert broken.is_passing
        status = model_status.status_of("a", watch.placement().boards)
        assert status is not None
        assert status.is_servable


@asynccontextmanager
async def busy_board(
    nats_server: EmbeddedServer, operator: NatsConnection, watch: Watch, tmp_path: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that serves `a`, with a turn in hand."""
    async with board_process(nats_server, tmp_path, {"a": "busy"}) as process:
        await until(watch, state_of)
        await placing.order(operator, Order("a", load=True, sent_at=time.time()))
        await until(watch, is_in("a", SERVING))
        yield process


async def test_two_signals_of_which_a_worker_hears_late_are_two_to_it(
    nats_server: EmbeddedServer, operator: NatsConnection, watch: Watch, tmp_path: Path
) -> None:
    async with busy_board(nats_server, operator, watch, tmp_path) as process:
        (worker,) = psutil.Process(process.pid).children()
        worker.suspend()
        process.terminate()
        await until(watch, is_in("a", DRAINING))
        process.terminate()
        async with asyncio.timeout(SECONDS):
            while not pending(worker.pid, signal.SIGTERM, signal.SIGINT):
                await watch.changed(0.02)
        worker.resume()
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == EXIT_INTERRUPTED
    assert "a | handed back" in (tmp_path / "b1.log").read_text()


def pending(pid: int, *numbers: signal.Signals) -> bool:
    """Whether the process has all of these signals before it (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = re.findall(r"^ShdPnd:\s*([0-9a-f]+)$", status, re.M)
    return all(int(mask, 16) >> (number - 1) & 1 for number in numbers)


async def test_the_second_signal_ends_a_board_soon_also_while_the_server_is_away(
    nats_server: EmbeddedServer, operator: NatsConnection, watch: Watch, tmp_path: Path
) -> None:
    async with busy_board(nats_server, operator, watch, tmp_path) as process:
        process.terminate()
        await until(watch, is_in("a", DRAINING))
        await nats_server.kill()
        began = time.monotonic()
        process.terminate()
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == EXIT_INTERRUPTED
        assert time.monotonic() - began < 8
    assert "a | handed back" in (tmp_path / "b1.log").read_text()


async def test_a_clock_that_is_set_back_holds_no_model_where_it_is(
    nats_server: EmbeddedServer, client: Client, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_board(nats_server, tmp_path, {"a": "serves", "b": "serves"}) as board:
        await client.ask("a", "hello").publish()
        await until(watch, is_in("a", SERVING))
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 86400)
        await client.ask("b", "hello").publish()
        await until(watch, is_in("b", SERVING))
        assert board.models()[:2] == ["a", "b"]
        board.task.cancel()


async def test_what_a_board_lets_go_of_while_it_is_renewed_is_nobodys(
    nats_server: EmbeddedServer, operator: NatsConnection
) -> None:
    nc, other = (
        await connect(nats_server.address(BOARD), name="b1"),
        await connect(nats_server.address(BOARD), name="b2"),
    )
    try:
        for num_yields in range(0, 60, 4):
            claims = Claims(nc, "b1")
            assert await claims.take("a", 1)
            assert await placing.claim(other, Claim("b2", "a", 0))
            renewing, moving = asyncio.create_task(claims.renew()), asyncio.create_task(claims.move("a"))
            for _ in range(num_yields):
                await asyncio.sleep(0)
            await claims.let_go("a")
            await asyncio.gather(renewing, moving)
            assert claims_of(await placing.read(operator)) == {("a", 0): "b2"}, num_yields
    finally:
        await close(nc)
        await close(other)
