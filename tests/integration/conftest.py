"""A worker on a real nats-server with an engine that needs no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import openai
import pytest
from nats.aio.client import Client as NatsConnection

from broker.accounts import GATEWAY, LOCAL, OPERATOR, WORKER
from broker.client import Client
from broker.connection import close, connect
from broker.discovery import CHAT, OF_RELEASE, RAW, SCORE, TOOLS
from broker.influx_address import InfluxAddress
from broker.messages.turns import Thinking
from broker.placing import Watch
from broker.server import EmbeddedServer
from producers.gateway.app import Gateway
from producers.gateway.dialect import Dialect
from producers.gateway.keys import ClientKeys, Keys
from producers.gateway.ollama.port import OllamaPort
from producers.gateway.origins import Origins
from producers.http_server import listen, serve_http
from producers.routing.policies import Routes
from telemetry.database import init
from telemetry.influx import Influx
from tests.fakes import FakeEngine, fake_worker
from tests.gateway import StartGateway, talk
from tests.influx_server import NO_INFLUXDB, InfluxServer, has_influxdb
from tests.pages import browser as browser
from tests.pages import chromium as chromium
from tests.pages import page as page
from tests.support import free_port
from tests.terminal import Bench, Queued
from workers.engine.calibration import UNMEASURED, calibrate
from workers.kv.cache import OffloadCache
from workers.prompts.history import History
from workers.turns.answer_reader import ALL_TEXT, AnswerReaders
from workers.worker import Worker
from workers.worker_options import WorkerOptions


@dataclass
class Running:
    """A worker as a test sees it."""

    engine: FakeEngine
    worker: Worker
    stop: asyncio.Event
    task: asyncio.Task[None]
    nc: NatsConnection
    cache: OffloadCache


NO_ROUTES = Routes()
StartWorker = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
async def watch(operator: NatsConnection) -> AsyncIterator[Watch]:
    """What boards say."""
    async with Watch(operator) as watch:
        yield watch


@pytest.fixture
def start_worker(nats_server: EmbeddedServer) -> StartWorker:
    @asynccontextmanager
    async def start(
        engine: FakeEngine | None = None,
        name: str = "w1",
        model: str = "m",
        fingerprint: str = "f",
        server: EmbeddedServer | None = None,
        offload_cache: OffloadCache | None = None,
        overflow: Literal["error", "drop"] = "error",
        fetch_bytes_per_second: float = 0.0,
        history: History | None = None,
        can: tuple[str, ...] = (CHAT, RAW, SCORE, TOOLS, *OF_RELEASE),
        facts: dict[str, str] | None = None,
        may_differ: bool = False,
        readers: AnswerReaders = ALL_TEXT,
    ) -> AsyncIterator[Running]:
        engine = engine or FakeEngine()
        # Fetching is weighed against what computing costs.
        calibration = calibrate(engine, engine.clock) if fetch_bytes_per_second else UNMEASURED
        cache = offload_cache or OffloadCache(0)
        nc = await connect((server or nats_server).address(WORKER), name=name)
        options = WorkerOptions(
            name=name,
            model=model,
            model_name="Fake",
            quantization="none",
            fingerprint=fingerprint,
            coalesce_seconds=0,
            pull_seconds=0.2,
            overflow=overflow,
            state_fingerprint=fingerprint,
            fetch_bytes_per_second=fetch_bytes_per_second,
            can=can,
            facts=facts or {},
            may_differ=may_differ,
            look_seconds=0.1,
        )
        worker = fake_worker(
            nc, engine, options, cache=cache, calibration=calibration, history=history, readers=readers
        )
        stop = asyncio.Event()
        task = asyncio.create_task(worker.run(stop))
        try:
            serving = asyncio.ensure_future(worker.is_serving.wait())
            await asyncio.wait({task, serving}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
            serving.cancel()
            assert worker.is_serving.is_set(), task
            yield Running(engine, worker, stop, task, nc, cache)
        finally:
            stop.set()
            engine.gate.set()
            await asyncio.wait({task}, timeout=10)
            await close(nc)
            if task.done() and not task.cancelled():
                task.result()

    return start


@pytest.fixture
async def client(nats_server: EmbeddedServer) -> AsyncIterator[Client]:
    async with Client(nats_server.address(LOCAL)) as client:
        yield client


@pytest.fixture
async def operator(nats_server: EmbeddedServer) -> AsyncIterator[NatsConnection]:
    nc = await connect(nats_server.address(OPERATOR), name="operator")
    yield nc
    await nc.close()


@pytest.fixture
async def influx(tmp_path: Path) -> AsyncIterator[InfluxServer]:
    """An InfluxDB with our database in it."""
    if not has_influxdb:
        pytest.skip(NO_INFLUXDB)
    server = InfluxServer(tmp_path / "influx")
    async with server:
        await asyncio.to_thread(init, Influx(InfluxAddress.parse(server.url)))
        yield server


@pytest.fixture
def bench(nats_server: EmbeddedServer, tmp_path: Path) -> Bench:
    return Bench(nats_server, tmp_path)


@pytest.fixture
async def queued(operator: NatsConnection) -> Queued:
    found = Queued(operator)
    await found.listen()
    return found


@pytest.fixture
def start_gateway(nats_server: EmbeddedServer) -> StartGateway:
    @asynccontextmanager
    async def start(
        keys: dict[str, ClientKeys] | None = None,
        routes: Routes = NO_ROUTES,
        max_connections: int = 512,
        *,
        leave_out_tools: bool = False,
        thinking: Thinking | None = None,
        is_strict: bool = False,
        dialects: tuple[Dialect, ...] | None = None,
        origins: tuple[str, ...] = (),
        ollama_port: int | None = None,
    ) -> AsyncIterator[str]:
        """Its address."""
        stop = asyncio.Event()
        port = free_port()
        nc = await connect(nats_server.address(GATEWAY), name="gateway")
        gateway = Gateway(
            nc,
            Keys(keys),
            routes,
            node="here",
            version="0",
            leave_out_tools=leave_out_tools,
            thinking=thinking,
            is_strict=is_strict,
            dialects=dialects,
            origins=Origins(origins, keys is not None),
        )
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(gateway.look())
            listening = listen("127.0.0.1", port)
            also = [] if ollama_port is None else [listen("127.0.0.1", ollama_port)]
            app = gateway.app() if ollama_port is None else OllamaPort(gateway.app(), ollama_port)
            group.create_task(serve_http(app, listening, stop, also=also, max_connections=max_connections))
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                stop.set()
                looking.cancel()
        await close(nc)

    return start


@pytest.fixture
async def api(start_worker: StartWorker, start_gateway: StartGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    """A gateway before a worker, by the openai package."""
    async with start_worker(), start_gateway() as url, talk(url) as found:
        yield found
