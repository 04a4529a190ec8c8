"""`turnpike demo`: server, worker and a small load in one process tree, with nothing left behind."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from broker.accounts import write_credentials
from broker.answer import Answer
from broker.messages import Chunk
from broker.process import EXIT_INTERRUPTED, spawn, temporary_folder, terminate
from producers.data.datasets import DEMO_CONVERSATIONS
from producers.load.generator import Progress
from producers.load.run import run_load
from producers.load.selection import select
from producers.load.tables import progress_table, showing, summary_table
from producers.local_system import LocalSystem, LocalSystemFailed, local_system
from producers.records.figures import summarize
from producers.records.lines import TurnRecord
from producers.settings import LoadSettings
from producers.terminal.tables import plural

MODEL = "demo"
NUM_SHOWN = 2


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
    influx_url: str,
    gateway_port: int | None,
    memory_of: Callable[[int], int | None],
    stop: asyncio.Event,
    as_json: bool,
) -> int:
    """Runs it all in a temporary folder. `entry` is the folder turnpike/; `memory_of` gives a process's bytes.

    Without a `model_file` it is the shipped model, on conversations of its kind. `nats_url` is a server to use instead
    of the embedded one, with an operator's rights. Telemetry goes to `influx_url`. With a `gateway_port` there is a
    gateway on it, and all of it stays until `stop`.
    """
    console = Console(stderr=True)
    options = LoadSettings(
        model=MODEL,
        num_conversations=num_conversations,
        concurrency=NUM_SHOWN,
        max_tokens=max_tokens,
        dataset=str(DEMO_CONVERSATIONS) if model_file is None else None,
    )
    selection = select(options)
    conversations = selection.conversations
    chosen = f"{len(conversations)} of {selection.num_found} conversations"
    progress, streams = Progress(), Streams(console)

    def say(text: str) -> None:
        if not as_json:
            console.print(text, highlight=False)

    def picture() -> RenderableType:
        return Group(streams.render(), progress_table(progress))

    async with AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_folder("turnpike-demo-"))
        parts = local_system(
            entry, folder, model=MODEL, model_file=model_file, nats_url=nats_url, wait=False, influx_url=influx_url
        )
        system = await stack.enter_async_context(parts)
        say(
            f"nats-server at {system.address.url}; telemetry into {influx_url.removeprefix('file:').rpartition('@')[2]}"
        )

        async def work() -> None:
            await system.until_served()
            say(f"worker ready, pid {system.worker.pid}; {chosen}, two at a time")
            progress.started_at = time.perf_counter()
            await run_load(system.client, options, conversations, stop=stop, progress=progress, on_chunk=streams.take)

        if as_json:
            await system.beside(work(), stop)
        else:
            with showing(console, picture):
                await system.beside(work(), stop)
        seconds = time.perf_counter() - progress.started_at
        if stop.is_set():
            return EXIT_INTERRUPTED
        code = _report(progress.records, seconds, memory_of(system.worker.pid), streams, max_tokens, as_json)
        if gateway_port is not None:
            await system.beside(_gateway(stack, entry, folder, system, gateway_port, stop), None)
        return code


async def _gateway(
    stack: AsyncExitStack, entry: Path, folder: Path, system: LocalSystem, port: int, stop: asyncio.Event
) -> None:
    """A process of its own, as on a cluster, until `stop`."""
    credentials = folder / "gateway.credentials"
    write_credentials(credentials, system.gateway_address)
    command: list[str | Path] = [
        sys.executable,
        entry,
        "gateway",
        "--credentials",
        credentials,
        "--gateway-port",
        str(port),
    ]
    process = await spawn([*command, "--log-level", "WARNING"])
    stack.push_async_callback(terminate, process)
    ended, stopped = asyncio.ensure_future(process.wait()), asyncio.ensure_future(stop.wait())
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if ended.done() and not stop.is_set():
        raise LocalSystemFailed(f"the gateway ended with code {ended.result()}")
    ended.cancel()


def _report(
    records: list[TurnRecord],
    seconds: float,
    memory_bytes: int | None,
    streams: Streams,
    max_tokens: int,
    as_json: bool,
) -> int:
    summary = summarize(records, seconds)
    if as_json:
        fields = msgspec.to_builtins(summary) | {"worker_memory_bytes": memory_bytes}
        sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
    else:
        console = Console()
        console.print(streams.render())
        console.print(summary_table(summary, "turnpike demo", memory_bytes=memory_bytes))
        if num_cut := sum(record.outcome == "length" for record in records):
            console.print(
                f"{num_cut} of {plural(len(records), 'answer')} cut at --max-tokens {max_tokens}", highlight=False
            )
    return 1 if summary.num_failed or not records else 0
