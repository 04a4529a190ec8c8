"""A server and a worker of our own for as long as somebody needs them, with nothing left behind."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.accounts import GATEWAY, LOCAL, SIDECAR, WORKER, write_credentials
from broker.client import Client
from broker.connection import Address, connect
from broker.errors import TurnpikeError
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from broker.topology import ensure

START_SECONDS = 120.0
WORKER_NAME = f"local-{os.getpid()}"
STOP_SECONDS = 10.0


class LocalSystemFailed(TurnpikeError):
    """A part of the system ended early; says which, and its last words."""


@dataclass(frozen=True)
class _Broker:
    """Where the server is, and whom the parts are there. `ended` comes when an embedded one has died."""

    producer: Address
    worker: Address
    sidecar: Address
    gateway: Address
    monitor_url: str | None
    ended: Callable[[], Coroutine[Any, Any, object]]


@dataclass(frozen=True)
class StartedWorker:
    """A worker's process, and where its log is."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def last_line(self) -> str:
        """What it said last."""
        return last_line(self.log)

    async def until_served(self, client: Client) -> None:
        """Returns when it answers."""
        while not any(found.worker == self.name and found.is_serving for found in await client.workers()):
            pass


@dataclass(frozen=True)
class LocalSystem:
    """A client on a broker that a worker serves."""

    client: Client
    _worker: StartedWorker
    _broker: _Broker

    @property
    def worker(self) -> asyncio.subprocess.Process:
        """The worker's process."""
        return self._worker.process

    @property
    def log(self) -> Path:
        """The worker's."""
        return self._worker.log

    @property
    def address(self) -> Address:
        """A producer's."""
        return self._broker.producer

    async def beside(self, work: Coroutine[Any, Any, None], stop: asyncio.Event | None = None) -> None:
        """Awaits the work, unless worker or server end before it, or `stop` is set and the work does not follow.

        Raises LocalSystemFailed with the last words of what ended.
        """
        task = asyncio.ensure_future(work)
        died = asyncio.ensure_future(self.worker.wait())
        server_died = asyncio.ensure_future(self._broker.ended())
        stopped = asyncio.ensure_future(_stopped_for(stop or asyncio.Event(), STOP_SECONDS))
        try:
            await asyncio.wait((task, died, server_died, stopped), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            elif died.done():
                raise LocalSystemFailed(f"the worker ended with code {died.result()}: {last_line(self.log)}")
            elif server_died.done():
                raise LocalSystemFailed(f"nats-server ended with code {server_died.result()}")
        finally:
            for future in (task, died, server_died, stopped):
                future.cancel()
            await asyncio.gather(task, died, server_died, stopped, return_exceptions=True)

    @property
    def gateway_address(self) -> Address:
        """A gateway's."""
        return self._broker.gateway

    async def until_served(self) -> None:
        """Returns when the worker answers; TimeoutError after START_SECONDS."""
        async with asyncio.timeout(START_SECONDS):
            await self._worker.until_served(self.client)


@asynccontextmanager
async def local_system(
    entry: Path,
    folder: Path,
    *,
    model: str,
    model_file: Path | None = None,
    nats_url: str | None = None,
    flags: Sequence[str] = (),
    wait: bool = True,
    influx_url: str | None = None,
) -> AsyncIterator[LocalSystem]:
    """Server and worker in `folder`, which the caller removes. `entry` is the folder turnpike/.

    With an `influx_url` there is a sidecar beside the worker, which writes there.

    Without a `model_file` the worker takes the model that Turnpike ships. `nats_url` is a server to use instead of the
    embedded one, with an operator's rights. Without `wait` the worker may still be loading.
    """
    async with AsyncExitStack() as stack:
        broker = await _broker(stack, folder, model, nats_url)
        if influx_url is not None:
            await _sidecar(stack, entry, folder, broker, influx_url)
        words: list[str | Path] = ["--model", model, *flags]
        words += ["--model-file", model_file] if model_file is not None else []
        worker = await started_worker(stack, entry, folder, broker.worker, name=WORKER_NAME, flags=words)
        client = await stack.enter_async_context(Client(broker.producer))
        system = LocalSystem(client, worker, broker)
        if wait:
            await system.beside(system.until_served())
        yield system


async def started_worker(
    stack: AsyncExitStack, entry: Path, folder: Path, address: Address, *, name: str, flags: Sequence[str | Path]
) -> StartedWorker:
    """A worker at the address, until the stack is left; its log and its credentials are in `folder`."""
    credentials, log = folder / "worker.credentials", folder / "worker.log"
    write_credentials(credentials, address)
    command = [sys.executable, entry, "worker", "--worker-name", name, "--credentials", credentials, *flags]
    with log.open("wb") as output:
        process = await spawn(command, stdout=output.fileno(), stderr=output.fileno())
    stack.push_async_callback(terminate, process)
    return StartedWorker(name, process, log)


async def _broker(stack: AsyncExitStack, folder: Path, model: str, nats_url: str | None) -> _Broker:
    if nats_url is None:
        server = await stack.enter_async_context(EmbeddedServer(folder / "server"))
        await server.ensure([model])
        producer, worker, sidecar, gateway = (server.address(user) for user in (LOCAL, WORKER, SIDECAR, GATEWAY))
        return _Broker(producer, worker, sidecar, gateway, server.monitoring_url, server.wait)
    address = Address.parse(nats_url)
    nc = await connect(address, name="turnpike-ensure")
    try:
        await ensure(nc, [model])
    finally:
        await nc.close()
    return _Broker(address, address, address, address, None, asyncio.Event().wait)


async def _sidecar(stack: AsyncExitStack, entry: Path, folder: Path, broker: _Broker, influx_url: str) -> None:
    """Started before the worker, so that it ends after it and has its last points too."""
    credentials, log = folder / "sidecar.credentials", folder / "sidecar.log"
    write_credentials(credentials, broker.sidecar)
    command: list[str | Path] = [sys.executable, entry, "sidecar", "--credentials", credentials]
    if broker.monitor_url is not None:
        command += ["--monitor-url", broker.monitor_url]
    with log.open("wb") as output:
        # By the environment: an address may hold a password, and process lists show flags.
        environment = {"TURNPIKE_INFLUX_URL": influx_url}
        process = await spawn(command, env=environment, stdout=output.fileno(), stderr=output.fileno())
    stack.push_async_callback(terminate, process)


async def _stopped_for(stop: asyncio.Event, seconds: float) -> None:
    """Comes back so long after `stop`: time for the cancelled turns to end."""
    await stop.wait()
    await asyncio.sleep(seconds)


def last_line(log: Path) -> str:
    """What a process said last, as its log has it."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("turnpike: ") if lines else "it said nothing"
