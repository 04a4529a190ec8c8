"""What two processes must not share: locked before it is touched, told by whom, free again however the holder ended."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from broker import hub, jetstream
from broker.accounts import LOCAL, OPERATOR, Accounts, read_credentials
from broker.catalogue import Locked, read_lock
from broker.client import Client
from broker.connection import connect
from broker.locks import CannotLock, Holder, InUse, Lock, command_line, is_held
from broker.server import LOCK_NAME, EmbeddedServer, reload_running
from telemetry.influx import FileSink, sink
from tests.hub_server import COMMIT, FILE, REPOSITORY, serving
from tests.support import ROOT, TURNPIKE, free_port
from workers.kv.checks import StateLayout
from workers.kv.disk import Disk

HOLD = """
import subprocess, sys, time
from pathlib import Path
from broker.locks import Lock
lock = Lock(Path(sys.argv[1]), "the thing")
child = subprocess.Popen(["sleep", "600"], pass_fds=[lock.fileno()]) if sys.argv[2:] else None
print(child.pid if child else 0, flush=True)
time.sleep(600)
"""


def holder(path: Path, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """A process that has the lock, and its child's id where it has one that inherited it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    with process:
        pass


def test_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    process, _ = holder(tmp_path / "x.lock")
    try:
        with pytest.raises(InUse) as caught:
            Lock(tmp_path / "x.lock", "the thing", advice="take another")
        assert re.fullmatch(
            rf"the thing is in use by process {process.pid} \(-c .*x\.lock\) since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d: "
            "take another",
            str(caught.value),
        )
    finally:
        killed(process)


def test_a_killed_holder_leaves_nothing_behind(tmp_path: Path) -> None:
    process, _ = holder(tmp_path / "x.lock")
    killed(process)
    Lock(tmp_path / "x.lock", "the thing").release()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_holder_leaves_running_still_has_the_lock_and_is_waited_for(tmp_path: Path) -> None:
    process, child = holder(tmp_path / "x.lock", "with a child")
    killed(process)
    had: list[float] = []

    def take() -> None:
        Lock(tmp_path / "x.lock", "the thing")
        had.append(time.monotonic())

    taking = threading.Thread(target=take)
    taking.start()
    assert is_held(tmp_path / "x.lock")
    ended = time.monotonic()
    os.kill(child, signal.SIGKILL)
    taking.join(10)
    assert had[0] >= ended


def test_who_waits_has_it_when_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    first = Lock(path, "the thing")
    asked = threading.Event()
    got: list[Lock] = []
    waiting = threading.Thread(
        target=lambda: got.append(Lock(path, "the thing", wait_seconds=60, while_waiting=asked.set))
    )
    waiting.start()
    assert asked.wait(30)
    first.release()
    waiting.join(30)
    # The one that waited has the file that others find, though the first one removed its own.
    assert is_held(path)
    with pytest.raises(InUse):
        Lock(path, "the thing")
    got[0].release()
    assert not is_held(path)


def test_many_at_once_are_one_after_another(tmp_path: Path) -> None:
    path, num_inside, most = tmp_path / "x.lock", 0, 0

    def work() -> None:
        nonlocal num_inside, most
        for _ in range(20):
            with Lock(path, "the thing", wait_seconds=60):
                num_inside += 1
                most = max(most, num_inside)
                time.sleep(0)
                num_inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert most == 1


def test_where_nothing_can_be_written_it_is_a_sentence() -> None:
    with pytest.raises(CannotLock, match=r"the thing cannot be locked: /proc/1/x\.lock: "):
        Lock(Path("/proc/1/x.lock"), "the thing")


def test_another_machines_holder_is_named_with_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    lock = Lock(path, "the thing")
    path.write_bytes(msgspec.json.encode(Holder(1, "pi-3", "turnpike broker", 1.8e9)))
    with pytest.raises(InUse, match=r"process 1 on pi-3 \(turnpike broker\) since 2027"):
        Lock(path, "the thing")
    lock.release()


def test_a_command_is_shown_without_its_secrets() -> None:
    shown = command_line(["/usr/bin/turnpike", "sidecar", "--influx-token", "hush", "--url=nats://me:hush@pi:4222"])
    assert shown == "turnpike sidecar --influx-token … --url=nats://…@pi:4222"
    assert "hush" not in command_line(["x", "--influx-token=hush", "nats://me:hush@a,nats://me:hush@b"])


# --- The broker's folder ---------------------------------------------------------------------------------------------


def broker(folder: Path, port: int) -> subprocess.Popen[str]:
    command = [*TURNPIKE, "broker", "--data-dir", str(folder), "--port", str(port), "--model", "m"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("nats-server at"):
            return
    assert process.stderr is not None
    pytest.fail(process.stderr.read())


async def queued(folder: Path) -> int:
    nc = await connect(read_credentials(folder / "operator.credentials"), name="test")
    info = await jetstream.api(nc, "STREAM.INFO.TURNS-m")
    await nc.close()
    assert info is not None
    return int(info["state"]["messages"])


async def test_a_second_broker_leaves_the_firsts_folder_alone(tmp_path: Path) -> None:
    port = free_port()
    first = broker(tmp_path, port)
    try:
        await asyncio.to_thread(until_ready, first)
        before = {
            path: path.read_bytes() for path in tmp_path.glob("*.*") if path.suffix in (".conf", ".json", ".ports")
        }
        for other in (port, free_port()):
            second = broker(tmp_path, other)
            said = (await asyncio.to_thread(second.communicate, timeout=60))[1]
            assert second.returncode == 1
            assert f"the data directory {tmp_path} is in use by process {first.pid} (turnpike broker --data-dir" in said
            assert len(said.strip().splitlines()) == 1
            assert {path: path.read_bytes() for path in before} == before
        async with Client(read_credentials(tmp_path / "local.credentials")) as client:
            for _ in range(10):
                await client.publish(client.ask("m", "x").turn, "m")
        assert await queued(tmp_path) == 10
    finally:
        first.terminate()
        await asyncio.to_thread(first.communicate, timeout=60)


async def test_a_broker_that_is_started_again_at_once_shares_no_store_with_the_dying_server(tmp_path: Path) -> None:
    port, num_sent = free_port(), 0
    process = broker(tmp_path, port)
    try:
        await asyncio.to_thread(until_ready, process)
        for _ in range(4):
            (ports,) = tmp_path.glob("nats-server_*.ports")
            server = Path(f"/proc/{ports.stem.rpartition('_')[2]}")
            async with Client(read_credentials(tmp_path / "local.credentials")) as client:
                for _ in range(5):
                    await client.publish(client.ask("m", "x").turn, "m")
                    num_sent += 1
            process.kill()
            before, process = process, broker(tmp_path, port)
            killed(before)
            await asyncio.to_thread(until_ready, process)
            assert not server.exists() or ") Z " in (server / "stat").read_text()
            assert await queued(tmp_path) == num_sent
    finally:
        process.terminate()
        await asyncio.to_thread(process.communicate, timeout=60)


async def test_a_server_that_outlives_its_broker_has_the_folder(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.start()
    assert server._lock is not None
    os.close(server._lock.fileno())  # as it is closed for a broker that is killed
    server._lock = None
    with pytest.raises(InUse, match="data directory"):
        EmbeddedServer(tmp_path)
    await server.kill()
    EmbeddedServer(tmp_path)._let_go()


async def test_accounts_that_are_added_at_once_are_all_there(nats_server: EmbeddedServer) -> None:
    folder, names = nats_server.folder, [f"user{number}" for number in range(8)]
    adding = [
        await asyncio.create_subprocess_exec(
            *TURNPIKE, "user", "add", name, "--data-dir", str(folder), stdout=asyncio.subprocess.DEVNULL
        )
        for name in names
    ]
    assert [await one.wait() for one in adding] == [0] * len(names)
    assert {account.name for account in Accounts(folder)} >= set(names)
    users = json.loads((folder / "nats-server.conf").read_text())["authorization"]["users"]
    assert {user["user"] for user in users} >= set(names)


def test_what_a_killed_broker_left_is_no_process_to_signal(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        (tmp_path / f"nats-server_{stranger.pid}.ports").write_text('{"nats": ["nats://127.0.0.1:1"]}')
        (tmp_path / "nats-server.conf").write_text('{"authorization": {}}')
        assert reload_running(tmp_path) is None
        with pytest.raises(subprocess.TimeoutExpired):
            stranger.wait(0.5)
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_broker_takes_up_what_was_added_while_it_was_stopped(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        await server.stop()
        Accounts(tmp_path).add("carol")
        await server.start()
        assert is_held(tmp_path / LOCK_NAME)
        nc = await connect(server.address("carol"), name="test")
        await nc.close()
        assert server.address(OPERATOR).user == OPERATOR
        assert server.address(LOCAL).url == server.url


# --- Other things ----------------------------------------------------------------------------------------------------


def test_two_workers_do_not_share_a_folder_of_states(tmp_path: Path) -> None:
    first, second = (Disk(tmp_path, 1000, StateLayout("f", 0, 1)) for _ in range(2))
    first.open()
    half = tmp_path / "half.kv.part"
    half.write_bytes(b"being written")
    with pytest.raises(InUse, match="give this worker another --kv-dir"):
        second.open()
    assert half.exists()
    first.close()
    second.open()
    second.close()


async def test_two_sidecars_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "points.lp"
    first = sink(f"file:{path}")
    with pytest.raises(InUse, match=r"the file of points .*points\.lp is in use"):
        sink(f"file:{path}")
    await first.close()
    await FileSink(path).close()
    assert list(tmp_path.iterdir()) == []
    FileSink(Path("/dev/null")), FileSink(Path("/dev/null"))  # a device is everybody's


def test_a_model_that_is_being_pulled_is_waited_for_or_told(tmp_path: Path) -> None:
    content = b"x" * 300_000
    with serving(content) as server:
        locked = Locked(REPOSITORY, COMMIT, FILE, server.sha256, len(content))
        is_pulling, go_on = threading.Event(), threading.Event()

        def slowly(done: int, total: int) -> None:
            is_pulling.set()
            go_on.wait(30)

        pulling = threading.Thread(
            target=lambda: hub.pull("m", locked, tmp_path, endpoint=server.url, on_progress=slowly)
        )
        pulling.start()
        assert is_pulling.wait(30)
        with pytest.raises(InUse, match=f"process {os.getpid()}"):
            hub.pull("m", locked, tmp_path, endpoint=server.url)
        shown: list[int] = []

        def watch(done: int, total: int) -> None:
            shown.append(done)
            go_on.set()

        path = hub.pull("m", locked, tmp_path, endpoint=server.url, wait_seconds=60, on_progress=watch)
        pulling.join(30)
        assert path.read_bytes() == content
        assert server.num_downloads == 1
        assert shown
        assert list(tmp_path.iterdir()) == [path]


def test_locking_two_models_at_once_keeps_both(tmp_path: Path) -> None:
    with serving(b"x" * 100) as server:
        path = tmp_path / "lock"
        command = [*TURNPIKE, "models", "lock", "--repository", REPOSITORY, "--file", FILE, "--lock-file", str(path)]
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}
        locking = [subprocess.Popen([*command, name], env=environment) for name in ("a", "b", "c", "d")]
        assert [one.wait(60) for one in locking] == [0] * 4
        assert set(read_lock(path)) == {"a", "b", "c", "d"}
        assert not (tmp_path / "lock.lock").exists()
