"""Whatever can die is watched: the process ends with a code and a sentence, or says so in /live."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import uvicorn
from nats.aio.client import Client as NatsConnection

from broker import connection
from broker.accounts import GATEWAY, SIDECAR, WORKER, write_credentials
from broker.client import Client
from broker.connection import Address, close, connect
from broker.errors import ConnectionLost, TurnpikeError
from broker.health import Rounds, either, serve_health
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from producers.gateway.app import Gateway
from producers.gateway.keys import Keys
from producers.http_server import listen, serve_http
from producers.routing.policies import Routes
from tests.cut_line import Line, line_to
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import TURNPIKE, eventually, free_port
from workers import health
from workers.engine.protocol import Span
from workers.health import WorkerLost, guarded

PATHS = ("/ready", "/health/live", "/health/ready", "/health")


def live(port: int, path: str = "/live") -> int:
    with suppress(httpx2.HTTPError):
        return httpx2.get(f"http://127.0.0.1:{port}{path}").status_code
    return 0


async def exceed(nc: NatsConnection) -> None:
    """Sends what the server hangs up for."""
    payload = b"x" * nc.max_payload
    await nc._send_publish("live.a.b", "", payload, len(payload), {"a": "b"})


# --- Processes ---


def commands(folder: Path, port: int) -> dict[str, tuple[str, list[str]]]:
    """Of each that stays: its account, and how it is started to answer probes at a port."""
    (folder / "lock").write_text("")
    return {
        "worker": (WORKER, ["worker", "--model", "m", "--model-file", "MODEL", "--health-port", str(port)]),
        "gateway": (GATEWAY, ["gateway", "--gateway-port", str(port)]),
        "sidecar": (SIDECAR, ["sidecar", "--health-port", str(port), "--influx-url", f"file:{folder}/points"]),
        "mirror": (
            WORKER,
            [
                "models",
                "serve",
                "--mirror-host",
                "127.0.0.1",
                "--mirror-port",
                str(port),
                "--lock-file",
                str(folder / "lock"),
            ],
        ),
    }


@pytest.fixture
async def line(nats_server: EmbeddedServer):  # type: ignore[no-untyped-def]
    async with line_to(nats_server.url) as found:
        yield found


@pytest.mark.parametrize("kind", ["worker", "gateway", "sidecar", "mirror"])
async def test_a_process_ends_with_its_connection(
    kind: str, nats_server: EmbeddedServer, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.models import DEMO

    port = free_port()
    user, command = commands(tmp_path, port)[kind]
    command = [str(DEMO.verified()) if word == "MODEL" else word for word in command]
    credentials = tmp_path / "credentials"
    address = nats_server.address(user)
    write_credentials(credentials, Address(line.url, address.user, address.password))
    flags = ["--credentials", str(credentials), "--data-dir", str(tmp_path)]
    process = await spawn([*TURNPIKE, *command, *flags], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        await eventually(lambda: live(port, "/ready") == 200, 60)
        assert live(port) == 200
        await line.refuse("Maximum Payload Violation")
        _, told = await asyncio.wait_for(process.communicate(), 20)
    finally:
        await terminate(process)
    assert process.returncode == 1
    assert told.decode().splitlines()[-1].startswith("turnpike: the connection to NATS is closed for good: ")
    assert b"Traceback" not in told


# --- Connections ---


async def test_a_connection_that_is_closed_for_good_is_told_and_one_that_we_close_is_not(
    nats_server: EmbeddedServer,
) -> None:
    nc = await connect(nats_server.address(WORKER), name="w")
    ours = await connect(nats_server.address(WORKER), name="w")
    watches = [asyncio.ensure_future(connection.watch(one)) for one in (nc, ours)]
    assert connection.trouble(nc) is None
    await close(ours)
    await exceed(nc)
    with pytest.raises(ConnectionLost, match="maximum payload violation"):
        await asyncio.wait_for(watches[0], 10)
    assert "closed for good" in str(connection.trouble(nc))
    await asyncio.wait_for(watches[1], 10)
    assert connection.trouble(ours) is None


async def test_a_server_that_comes_back_is_no_loss(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "server", port=free_port()) as server:
        nc = await connect(server.address(WORKER), name="w")
        watch = asyncio.ensure_future(connection.watch(nc))
        await server.kill()
        await eventually(lambda: nc.is_reconnecting)
        assert connection.trouble(nc) is None
        await server.start()
        await eventually(lambda: nc.is_connected)
        assert connection.trouble(nc) is None
        assert not watch.done()
        watch.cancel()
        await close(nc)


@pytest.mark.parametrize("part", ["_flusher_task", "_ping_interval_task", "_reading_task"])
async def test_a_connection_of_which_a_part_has_died_is_lost(
    part: str, nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "FAILING_SECONDS", 0.2)
    nc = await connect(nats_server.address(WORKER), name="w")
    watch = asyncio.ensure_future(connection.watch(nc))
    getattr(nc, part).cancel()
    with pytest.raises(ConnectionLost, match="has ended"):
        await asyncio.wait_for(watch, 10)
    await close(nc)


async def test_a_callback_that_fails_is_told_and_the_next_message_is_heard(
    nats_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    nc = await connect(nats_server.address(WORKER), name="w")
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(message) -> None:  # type: ignore[no-untyped-def]
        heard.put_nowait(message.data)
        if message.data == b"1":
            raise KeyError("a fault of ours")

    await nc.subscribe("queue.m.batch", cb=hear)
    for number in (b"1", b"2"):
        await nc.publish("queue.m.batch", number)
    assert [await asyncio.wait_for(heard.get(), 10) for _ in range(2)] == [b"1", b"2"]
    assert "a message was not handled" in caplog.text
    await close(nc)


# --- A worker's parts ---


async def test_a_worker_ends_with_its_connection_and_says_so(client: Client, start_worker: StartWorker) -> None:
    # As many as there are tasks that looked before the others had ended.
    with pytest.raises(ExceptionGroup, match="unhandled errors") as ended:  # noqa: PT012
        async with start_worker() as running:
            assert running.worker.stuck_reason() is None
            await exceed(running.nc)
            await eventually(running.worker.stuck_reason)
            await asyncio.wait({running.task}, timeout=10)
            assert running.task.done()
    assert ended.value.split(ConnectionLost)[1] is None


class DyingEngine(FakeEngine):
    """Its thread ends without a word: SystemExit passes every handler."""

    def decode(self, spans: list[Span]) -> list[list[int]]:
        raise SystemExit


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_worker_ends_with_its_engines_thread(
    client: Client, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ENDING_SECONDS", 0.0)
    with pytest.RaisesGroup(WorkerLost, flatten_subgroups=True):
        async with start_worker(DyingEngine()) as running:
            await client.ask("m", "hello").publish()
            assert "thread has ended" in str(await eventually(running.worker.stuck_reason))
            await asyncio.wait({running.task}, timeout=10)
            assert running.task.done()


async def test_what_is_done_for_others_ends_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise KeyError("x")

    await guarded("giving a state", fail())
    assert "giving a state failed" in caplog.text


# --- HTTP ---


async def test_a_gateway_whose_connection_is_gone_is_neither_live_nor_ready(nats_server: EmbeddedServer) -> None:
    nc = await connect(nats_server.address(GATEWAY), name="gateway")
    gateway = Gateway(nc, Keys(None), Routes(), node="here", version="0")
    stop, port = asyncio.Event(), free_port()
    serving = asyncio.ensure_future(serve_http(gateway.app(), listen("127.0.0.1", port), stop, max_connections=8))
    await eventually(lambda: live(port) == 200)
    assert await asyncio.to_thread(lambda: [live(port, path) for path in PATHS]) == [200] * 4
    await exceed(nc)
    await eventually(lambda: live(port) == 503)
    assert await asyncio.to_thread(lambda: [live(port, path) for path in PATHS]) == [503] * 4
    stop.set()
    await serving


async def test_no_size_of_a_request_ends_a_gateway(nats_server: EmbeddedServer, start_worker: StartWorker) -> None:
    nc = await connect(nats_server.address(GATEWAY), name="gateway")
    gateway = Gateway(nc, Keys(None), Routes(), node="here", version="0")
    stop, port = asyncio.Event(), free_port()
    looking = asyncio.ensure_future(gateway.look())
    serving = asyncio.ensure_future(serve_http(gateway.app(), listen("127.0.0.1", port), stop, max_connections=8))
    async with start_worker(), httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:

        async def ask(text: str) -> int:
            body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 1}
            return (await http.post("/v1/chat/completions", json=body)).status_code

        await eventually(lambda: live(port) == 200)
        # The turn's other fields and headers lie in between: from what is taken, and is too long for the model, on.
        codes = [await ask("x" * size) for size in range(nc.max_payload - 490, nc.max_payload - 250, 20)]
        assert set(codes) == {400, 413}
        assert codes == sorted(codes)
        assert nc.stats["reconnects"] == 0
        assert await ask("hello") == 200
        assert await asyncio.to_thread(live, port) == 200
    looking.cancel()
    stop.set()
    await serving
    await close(nc)


async def test_an_http_server_that_ends_by_itself_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def over(self: uvicorn.Server) -> None:
        """As uvicorn does it: its loop comes back."""

    monkeypatch.setattr(uvicorn.Server, "main_loop", over)

    async def app(scope, receive, send) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.RaisesGroup(TurnpikeError):
        await asyncio.wait_for(serve_http(app, listen("127.0.0.1", 0), asyncio.Event(), max_connections=8), 10)


async def test_a_check_that_fails_is_no_good_news() -> None:
    def fails() -> str | None:
        raise LookupError

    def well() -> None:
        return None

    async with serve_health(0, live=either(well, fails), ready=well, host="127.0.0.1") as port:
        assert await asyncio.to_thread(live, port) == 503
        assert await asyncio.to_thread(live, port, "/ready") == 200


def test_a_loop_that_does_not_come_round_is_told_by_its_name() -> None:
    now = [0.0]
    clock: Callable[[], float] = lambda: now[0]  # noqa: E731
    rounds = Rounds(clock)
    rounds.begin("the writer", 10.0)
    rounds.begin("sampling", 60.0)
    assert rounds.trouble() is None
    now[0] = 11.0
    assert rounds.trouble() == "the writer has not come round for 11 s"
    rounds.begin("the writer", 10.0)
    assert rounds.trouble() is None
    now[0] = 70.0
    rounds.end("the writer")
    assert rounds.trouble() == "sampling has not come round for 70 s"
