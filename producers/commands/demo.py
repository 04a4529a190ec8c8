"""`turnpike demo`: server, worker and a small load in one process tree, with nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
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
from broker.discovery import CHAT
from broker.messages import Chunk
from broker.process import EXIT_INTERRUPTED, spawn, temporary_folder, terminate
from producers.data.datasets import DEMO_CONVERSATIONS
from producers.load.generator import Progress
from producers.load.run import run_load
from producers.load.selection import select
from producers.load.tables import progress_table, showing, summary_table
from producers.local_system import LocalSystem, LocalSystemFailed, local_system
from producers.records.figures import summarize
from producers.settings import LoadSettings
from producers.terminal.tables import plural

MODEL = "demo"
NUM_SHOWN = 2
PLAIN_ROLES = ("\nUser:", "\nAssistant:")
"""How the next message begins in the form of models without a template (docs/models.md)."""
MAX_PANEL_LINES = 14
TABLE_LINES = 11
"""Of the figures below the panels, and a line for the cursor."""


class Streams:
    """The last two conversations' texts, side by side."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, deque[str]] = {}
        self._live: dict[str, str] = {}

    def take(self, conversation: str, answer: Answer, chunk: Chunk) -> None:
        """What has come of an answer."""
        self.show(conversation, answer.turn.messages[-1].content, answer.text)

    def show(self, conversation: str, asked: str, answered: str) -> None:
        """The last question of a conversation, and its answer so far."""
        if conversation not in self._shown:
            while len(self._shown) >= NUM_SHOWN:
                del self._shown[next(iter(self._shown))]
            self._shown[conversation] = deque(maxlen=6)
        lines = self._shown[conversation]
        question = f"› {asked}"
        if not lines or lines[-1 if len(lines) < 2 else -2] != question:
            lines += [question, ""]
        lines[-1] = answered

    def render(self, num_lines: int = MAX_PANEL_LINES) -> RenderableType:
        """A panel for each conversation, with the last lines of what was said in it."""
        width = max(30, self._console.width // NUM_SHOWN - 4)
        panels = []
        for name, said in self._shown.items():
            lines: list[Text] = []
            for one in said:
                style = "bold" if one.startswith("›") else ""
                lines += Text(one, style=style).wrap(self._console, width - 4)
            panels.append(Panel(Group(*lines[-num_lines:]), title=name, width=width, height=num_lines + 2))
        return Columns(panels)


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
    what = "the model that Turnpike ships" if model_file is None else model_file.name
    demo = _Demo(Console(stderr=True), _load(model_file, num_conversations, max_tokens), what, as_json)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_folder("turnpike-demo-"))
        parts = local_system(
            entry, folder, model=MODEL, model_file=model_file, nats_url=nats_url, wait=False, influx_url=influx_url
        )
        system = await stack.enter_async_context(parts)
        where = influx_url.removeprefix("file:").rpartition("@")[2]
        demo.say(f"nats-server at {system.address.url}; telemetry into {where}")
        seconds = await demo.run(system, stop)
        if stop.is_set():
            return EXIT_INTERRUPTED
        code = demo.report(seconds, memory_of(system.worker.pid))
        if gateway_port is not None:
            await system.beside(_gateway(stack, entry, folder, system, gateway_port, stop), None)
        return code


def _load(model_file: Path | None, num_conversations: int, max_tokens: int) -> LoadSettings:
    return LoadSettings(
        model=MODEL,
        num_conversations=num_conversations,
        concurrency=NUM_SHOWN,
        max_tokens=max_tokens,
        dataset=str(DEMO_CONVERSATIONS) if model_file is None else None,
    )


class _Demo:
    """The load, and what is shown of it."""

    def __init__(self, console: Console, options: LoadSettings, what: str, as_json: bool) -> None:
        self._console = console
        self._what = what
        self._is_served = False
        self._options = options
        self._as_json = as_json
        self._selection = select(options)
        self._progress = Progress()
        self._streams = Streams(console)

    def say(self, text: str) -> None:
        """To people."""
        if not self._as_json:
            self._console.print(text, highlight=False)

    async def run(self, system: LocalSystem, stop: asyncio.Event) -> float:
        """The seconds that the load took, from the worker's readiness on."""
        with contextlib.nullcontext() if self._as_json else showing(self._console, self._picture):
            await system.beside(self._work(system, stop), stop)
        return time.perf_counter() - self._progress.started_at

    async def _work(self, system: LocalSystem, stop: asyncio.Event) -> None:
        await system.until_served()
        self._is_served = True
        conversations = self._selection.conversations
        chosen = f"{len(conversations)} of {self._selection.num_found} conversations"
        self.say(f"worker ready with {self._what}, pid {system.worker.pid}; {chosen}, two at a time")
        if not all(worker.does(CHAT) for worker in await system.client.workers()):
            self.say("it has no chat template: likely a base model, whose answers end where it goes on as the user")
            self._options = msgspec.structs.replace(self._options, stop=PLAIN_ROLES)
        self._progress.begin()
        progress, on_chunk = self._progress, self._streams.take
        await run_load(system.client, self._options, conversations, stop=stop, progress=progress, on_chunk=on_chunk)

    def _picture(self) -> RenderableType:
        if not self._is_served:
            seconds = time.perf_counter() - self._progress.started_at
            return Text(f"the worker loads {self._what}: {seconds:.0f} s")
        # A terminal of 24 lines has room for the figures and for what was said last.
        num_lines = min(MAX_PANEL_LINES, max(3, self._console.height - TABLE_LINES - 2))
        return Group(self._streams.render(num_lines), progress_table(self._progress))

    def report(self, seconds: float, memory_bytes: int | None) -> int:
        """The figures on stdout; the exit code."""
        records = self._progress.records
        summary = summarize(records, seconds)
        if self._as_json:
            fields = msgspec.to_builtins(summary) | {"worker_memory_bytes": memory_bytes}
            sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
        else:
            console = Console()
            console.print(self._streams.render())
            console.print(summary_table(summary, "turnpike demo", memory_bytes=memory_bytes))
            if num_cut := sum(record.outcome == "length" for record in records):
                cut = f"{num_cut} of {plural(len(records), 'answer')} cut at --max-tokens {self._options.max_tokens}"
                console.print(cut, highlight=False)
        return 1 if summary.num_failed or not records else 0


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
