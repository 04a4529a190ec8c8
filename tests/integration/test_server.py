from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from broker import jetstream, subjects, topology
from broker.accounts import LOCAL, OPERATOR, WORKER
from broker.connection import Address, connect
from broker.errors import NotReady, Refused, ServerError, ServerTooOld, ServerUnavailable
from broker.priorities import ASIDE, BATCH, PRIORITIES
from broker.server import EmbeddedServer, reload_running
from producers.bringing_up import ForTheWhile, LocalModel
from tests.support import ROOT, TURNPIKE, free_port, freeze


async def test_ensuring_twice_changes_nothing(nats_server: EmbeddedServer) -> None:
    assert await nats_server.ensure(["m"]) == []


async def test_a_changed_limit_is_updated_in_place(nats_server: EmbeddedServer) -> None:
    changed = await nats_server.ensure(["m"], topology.Limits(max_queued_turns=7, ack_wait_seconds=5))
    assert "stream TURNS-m: updated" in changed
    assert "consumer TURNS-m/batch: updated" in changed
    nc = await connect(nats_server.address(OPERATOR), name="test")
    info = await jetstream.api(nc, "STREAM.INFO.TURNS-m")
    assert info is not None
    assert info["config"]["max_msgs"] == 7
    assert await topology.require(nc, "m") == 5
    await nc.close()


async def test_an_older_releases_stream_is_brought_up_to_date(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        nc = await connect(server.address(OPERATOR), name="test")
        await jetstream.api(nc, "STREAM.CREATE.ENDS", {"name": "ENDS", "subjects": ["end.>"], "discard": "new"})
        assert "stream ENDS: updated" in await topology.ensure(nc, ["m"])
        info = await jetstream.api(nc, "STREAM.INFO.ENDS")
        assert info is not None
        assert info["config"]["discard_new_per_subject"] is True
        await nc.close()


async def test_an_older_releases_queue_gets_the_lane_of_turns_without_a_slot_and_keeps_its_turns(
    tmp_path: Path,
) -> None:
    async with EmbeddedServer(tmp_path) as server:
        nc = await connect(server.address(OPERATOR), name="test")
        config = next(one for one in topology.streams(["m"]) if one["name"] == "TURNS-m")
        await jetstream.create_stream(nc, config | {"max_consumers": len(PRIORITIES)})
        for one in topology.consumers("m"):
            if one["name"] in PRIORITIES:
                await jetstream.create_consumer(nc, "TURNS-m", one)
        await nc.request("turn.m.batch.local.t1", b"x")
        with pytest.raises(NotReady, match=f"TURNS-m/{ASIDE}"):
            await topology.require(nc, "m")
        changed = await topology.ensure(nc, ["m"])
        assert {"stream TURNS-m: updated", f"consumer TURNS-m/{ASIDE}: created"} <= set(changed)
        await topology.require(nc, "m")
        found = await jetstream.stream(nc, "TURNS-m")
        assert found is not None
        assert found.state.num_messages == 1
        await nc.close()


async def test_what_was_queued_survives_a_kill(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    async with server:
        await server.ensure(["m"])
        nc = await connect(server.address(OPERATOR), name="test")
        await nc.request("turn.m.batch.local.t1", b"x")
        await nc.close()
        await server.kill()
    async with EmbeddedServer(tmp_path) as again:
        nc = await connect(again.address(OPERATOR), name="test")
        info = await jetstream.api(nc, "STREAM.INFO.TURNS-m")
        assert info is not None
        assert info["state"]["messages"] == 1
        await nc.close()


async def test_a_port_in_use_is_said_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServerError, match="address already in use"):
            await EmbeddedServer(tmp_path, port=taken.getsockname()[1]).start()


async def test_nobody_at_the_address_is_said_so() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(ServerUnavailable, match=f"127.0.0.1:{port}: Connection refused. Start one"):
        await connect(Address(f"nats://127.0.0.1:{port}"), name="test", timeout=1)


async def test_of_several_servers_one_that_answers_is_enough(nats_server: EmbeddedServer) -> None:
    account = nats_server.accounts[LOCAL]
    for order in ("nats://{0}:{1}@127.0.0.1:{3},{2}", "{2},nats://{0}:{1}@127.0.0.1:{3}"):
        url = order.format(account.name, account.password, nats_server.url, free_port())
        env = os.environ | {"NATS_URL": url}
        command = [*TURNPIKE, "cancel", "--all"]
        found = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True)
        assert (found.returncode, found.stderr) == (0, "")


async def test_who_is_at_the_address_and_does_not_let_us_in_is_no_reason_to_start_a_broker(
    nats_server: EmbeddedServer,
) -> None:
    where, known = Address(nats_server.url, LOCAL, "guessed"), LocalModel("demo")
    entry = ROOT / "turnpike"
    async with ForTheWhile(where, entry, find=lambda _: known, may_start=True, accounts={}, say=pytest.fail) as own:
        with pytest.raises(Refused, match="wrong user or password") as caught:
            await own.serve("demo")
    assert "turnpike broker" not in str(caught.value)
    assert "--credentials" in str(caught.value)


async def test_a_server_that_is_too_old_is_refused() -> None:
    async def old_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.11.9", "max_payload": 1048576, "headers": True, "proto": 1}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(old_server, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ServerTooOld, match=r"2\.11\.9"):
            await connect(Address(f"nats://127.0.0.1:{port}"), name="test")


async def test_a_wrong_password_is_said_so_and_not_shown(nats_server: EmbeddedServer) -> None:
    with pytest.raises(ServerUnavailable, match="wrong user or password") as caught:
        await connect(Address(nats_server.url, LOCAL, "guessed"), name="test")
    assert "guessed" not in str(caught.value) + repr(Address(nats_server.url, LOCAL, "guessed"))


async def test_files_with_credentials_are_the_owners_alone(nats_server: EmbeddedServer) -> None:
    for name in ("accounts.json", "nats-server.conf"):
        assert (nats_server.folder / name).stat().st_mode & 0o777 == 0o600
    password = nats_server.accounts[LOCAL].password
    assert password not in repr(nats_server.accounts[LOCAL])
    assert password not in (nats_server.folder / "nats-server.log").read_text()


async def test_a_new_user_can_connect_without_a_restart(nats_server: EmbeddedServer) -> None:
    account = nats_server.accounts.add("carol")
    assert reload_running(nats_server.folder) == nats_server.url
    for _ in range(50):
        try:
            nc = await connect(Address(nats_server.url, account.name, account.password), name="test")
            break
        except ServerUnavailable:
            continue  # the server takes a signal when it comes to it
    else:
        pytest.fail("the server never took up the new account")
    await nc.close()


async def test_no_process_is_left_when_the_server_has_stopped(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        pid = server.pid
    assert not Path(f"/proc/{pid}").exists()


async def test_who_may_wait_waits_for_a_server_and_its_streams(tmp_path: Path) -> None:
    port = free_port()
    server = EmbeddedServer(tmp_path, port=port)
    there = Address(f"nats://127.0.0.1:{port}", WORKER, server.accounts[WORKER].password)
    with pytest.raises(ServerUnavailable):
        await connect(there, name="hasty")
    waiting = asyncio.ensure_future(connect(dataclasses.replace(there, wait=60), name="patient"))
    async with server:
        nc = await waiting
        with pytest.raises(NotReady):
            await topology.require(nc, "m")
        found = asyncio.ensure_future(topology.require(nc, "m", wait=60))
        await server.ensure(["m"])
        assert await found == topology.ACK_WAIT_SECONDS
        await nc.close()


async def test_a_server_that_is_away_while_a_worker_starts_is_waited_for(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "API_SECONDS", 0.1)
    nc = await connect(nats_server.address(WORKER), name="starting")
    freeze(nats_server.pid)
    try:
        found = asyncio.ensure_future(topology.require(nc, "m"))
        await asyncio.wait({found}, timeout=1)
        assert not found.done()
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    assert await found == topology.ACK_WAIT_SECONDS
    await nc.close()


async def test_what_was_said_before_a_flush_has_reached_the_server_when_it_comes_back(
    nats_server: EmbeddedServer,
) -> None:
    nc = await connect(nats_server.address(LOCAL), name="a")
    # The server refuses both at once, in the order in which it answers a ping.
    await nc.subscribe(subjects.live_of("another"))
    await nc.flush()
    assert "permissions violation for subscription" in str(nc.last_error)
    await nc.publish(subjects.turn("m", BATCH, "another", "t"), b"")
    await nc.flush()
    assert "permissions violation for publish" in str(nc.last_error)
    await nc.close()
