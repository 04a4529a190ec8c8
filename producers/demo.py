"""`turnpike demo`: server, worker and a small load in one process tree, with nothing left behind."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from broker.accounts import LOCAL, WORKER, write_credentials
from broker.client import Answer, Client
from broker.connection import Address, connect
from broker.errors import TurnpikeError
from broker.messages import Chunk
from broker.process import EXIT_INTERRUPTED, spawn, terminate
from broker.server import EmbeddedServer
from broker.topology import ensure
from producers.load import Progress, progress_table, run_load, select, showing, summary_table
from producers.records import TurnRecord, summarize
from producers.settings import LoadSettings

MODEL = "demo"
START_SECONDS = 120.0
NUM_SHOWN = 2


class DemoFailed(TurnpikeError):
    """A part of the demo ended early; says which, and its last words."""


class Streams:
    """The last two conversations' texts, side by side."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, deque[str]] = {}
        self._live: dict[str, str] = {}

    def take(self, conversation: str, answer: Answer, chunk: Chunk) -> None:
        if conversation not in self._shown:
            while len(self._shown) >= NUM_SHOWN:
                del self._shown[next(iter(self._shown))]
            self._shown[conversation] = deque(maxlen=6)
        lines = self._shown[conversation]
        question = f"› {answer.turn.messages[-1].content}"
        if not lines or lines[-1 if len(lines) < 2 else -2] != question:
            lines += [question, ""]
        lines[-1] = answer.text

    def render(self) -> RenderableType:
        width = max(30, self._console.width // NUM_SHOWN - 4)
        return Columns(
            [
                Panel(
                    Group(*(Text(line, style="bold" if line.startswith("›") else "") for line in lines)),
                    title=name,
                    width=width,
                    height=16,
                )
                for name, lines in self._shown.items()
            ]
        )


async def run_demo(
    entry: Path,
    *,
    model_file: Path | None,
    nats_url: str | None,
    num_conversations: int,
    max_tokens: int,
    memory_of: Callable[[int], int | None],
    stop: asyncio.Event,
    as_json: bool,
) -> int:
    """Runs it all in a temporary folder. `entry` is turnpike.py; `memory_of` gives a process's bytes.

    `nats_url` is a server to use instead of the embedded one, with an operator's rights.
    """
    console = Console(stderr=True)

    def say(text: str) -> None:
        if not as_json:
            console.print(text, highlight=False)

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnpike-demo-")))
        if model_file is None:
            say("making a tiny model with random weights: what it says is noise, what it costs is real")
            model_file = folder / "tiny.gguf"
            await _finished(
                [sys.executable, "-m", "workers.llama.random_model", "tiny", "Q8_0", model_file], folder / "model.log"
            )
        broker = await _broker(stack, folder, nats_url)
        say(f"nats-server at {broker.producer.url}")
        write_credentials(folder / "worker.credentials", broker.worker)
        log = folder / "worker.log"
        with log.open("wb") as output:
            command: list[str | Path] = [
                sys.executable,
                entry,
                "worker",
                "--worker-name",
                "demo-worker",
                "--model",
                MODEL,
            ]
            command += ["--model-file", model_file, "--credentials", folder / "worker.credentials"]
            worker = await spawn(command, stdout=output.fileno(), stderr=output.fileno())
        stack.push_async_callback(terminate, worker)
        client = await stack.enter_async_context(Client(broker.producer))
        options = LoadSettings(
            model=MODEL, num_conversations=num_conversations, concurrency=NUM_SHOWN, max_tokens=max_tokens
        )
        conversations, num_found = select(options)
        progress, streams = Progress(), Streams(console)

        async def work() -> None:
            await _until_served(client)
            say(f"worker ready, pid {worker.pid}; {len(conversations)} of {num_found} conversations, two at a time")
            progress.started_at = time.perf_counter()
            await run_load(client, options, conversations, stop=stop, progress=progress, on_chunk=streams.take)

        def picture() -> RenderableType:
            return Group(streams.render(), progress_table(progress))

        if as_json:
            await _beside(work(), worker, broker, log, stop)
        else:
            with showing(console, picture):
                await _beside(work(), worker, broker, log, stop)
        seconds = time.perf_counter() - progress.started_at
        if stop.is_set():
            return EXIT_INTERRUPTED
        return _report(progress.records, seconds, memory_of(worker.pid), streams, as_json)


@dataclass(frozen=True)
class _Broker:
    """Where the demo's server is, and whom its parts are there. `ended` comes when an embedded one has died."""

    producer: Address
    worker: Address
    ended: Callable[[], Coroutine[Any, Any, object]]


async def _broker(stack: AsyncExitStack, folder: Path, nats_url: str | None) -> _Broker:
    if nats_url is None:
        server = await stack.enter_async_context(EmbeddedServer(folder / "server"))
        await server.ensure([MODEL])
        return _Broker(server.address(LOCAL), server.address(WORKER), server.wait)
    address = Address.parse(nats_url)
    nc = await connect(address, name="turnpike-ensure")
    try:
        await ensure(nc, [MODEL])
    finally:
        await nc.close()
    return _Broker(address, address, asyncio.Event().wait)


async def _finished(command: list[str | Path], log: Path) -> None:
    with log.open("wb") as output:
        child = await spawn(command, stdout=output.fileno(), stderr=output.fileno())
    try:
        if await child.wait() != 0:
            raise DemoFailed(f"the model could not be made: {_last_line(log)}")
    finally:
        await terminate(child)


async def _until_served(client: Client) -> None:
    async with asyncio.timeout(START_SECONDS):
        while not await client.workers():
            pass


async def _beside(
    work: Coroutine[Any, Any, None],
    worker: asyncio.subprocess.Process,
    broker: _Broker,
    log: Path,
    stop: asyncio.Event,
) -> None:
    """Awaits the work, unless worker or server end before it, or it is to stop before anything is running."""
    task = asyncio.ensure_future(work)
    died = asyncio.ensure_future(worker.wait())
    server_died = asyncio.ensure_future(broker.ended())
    stopped = asyncio.ensure_future(_stopped_for(stop, 10.0))
    try:
        await asyncio.wait((task, died, server_died, stopped), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        elif died.done():
            raise DemoFailed(f"the worker ended with code {died.result()}: {_last_line(log)}")
        elif server_died.done():
            raise DemoFailed(f"nats-server ended with code {server_died.result()}")
    finally:
        for future in (task, died, server_died, stopped):
            future.cancel()
        await asyncio.gather(task, died, server_died, stopped, return_exceptions=True)


async def _stopped_for(stop: asyncio.Event, seconds: float) -> None:
    """Comes back so long after `stop`: time for the cancelled turns to end."""
    await stop.wait()
    await asyncio.sleep(seconds)


def _report(
    records: list[TurnRecord], seconds: float, memory_bytes: int | None, streams: Streams, as_json: bool
) -> int:
    summary = summarize(records, seconds)
    if as_json:
        fields = msgspec.to_builtins(summary) | {"worker_memory_bytes": memory_bytes}
        sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
    else:
        console = Console()
        console.print(streams.render())
        console.print(summary_table(summary, "turnpike demo", memory_bytes=memory_bytes))
    return 1 if summary.num_failed or not records else 0


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("turnpike: ") if lines else "it said nothing"
