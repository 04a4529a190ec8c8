"""`turnpike demo --boards`: a board with room for one of two models, a conversation with each, what is loaded when."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console

from broker.accounts import BOARD, LOCAL, OPERATOR, write_credentials
from broker.catalogue import Locked, sha256_of, write_lock
from broker.client import Client
from broker.connection import close, connect
from broker.messages import Message, Sampling
from broker.messages.boards import BoardState
from broker.placing import Watch
from broker.process import EXIT_INTERRUPTED, spawn, temporary_folder, terminate
from broker.server import EmbeddedServer
from producers.local_system import LocalSystemFailed, last_line
from producers.terminal.tables import FoldingTable

PARK_BYTES = 16 * 1024**2
"""Of each worker, for conversations at rest: a demo's are small."""
ROOM_BYTES = 64 * 1024**2
"""Beside the larger one of the two: for what is kept of the other one's conversation, and too little for a worker."""
NUM_CTX = 2048
NAME = f"demo-board-{os.getpid()}"
ASKED = (
    (0, "Hello. My name is Torvik and I am new here."),
    (1, "Hello. Our mast is 42 metres high."),
    (0, "What is my name?"),
)
"""Which of the two models is asked what: each turn wants another than the last; the third asks what the first told."""


class Told(Struct, frozen=True):
    """One turn, and what its answer took."""

    model: str
    asked: str
    answered: str
    wait_seconds: float
    prompt_tokens: int
    cached_tokens: int
    cached_in: str | None


class Figures(Struct, frozen=True):
    """All turns in their order, and what the board did for them."""

    turns: list[Told]
    num_swaps: int
    loading_seconds: float


async def run_board_demo(
    entry: Path,
    *,
    models: Mapping[str, Path | None],
    memory_bytes: int,
    max_tokens: int,
    stop: asyncio.Event,
    as_json: bool,
) -> int:
    """Runs it all in a temporary folder; the exit code. `entry` is the folder turnpike/, `models` two by their names,
    without a file the one that Turnpike ships, and `memory_bytes` what the larger one's plan takes.

    Raises LocalSystemFailed where a part of it ends early.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_folder("turnpike-demo-"))
        server = await stack.enter_async_context(EmbeddedServer(folder / "server"))
        await server.ensure(list(models))
        log = folder / "board.log"
        board = await _board(entry, folder, log, server, models, memory_bytes + PARK_BYTES + ROOM_BYTES)
        stack.push_async_callback(terminate, board)
        demo = _BoardDemo(Console(stderr=True), list(models), max_tokens, as_json)
        work = asyncio.ensure_future(demo.run(server))
        ends = [asyncio.ensure_future(one) for one in (board.wait(), server.wait(), stop.wait())]
        try:
            await asyncio.wait((work, *ends), return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                return EXIT_INTERRUPTED
            if not work.done():
                raise LocalSystemFailed(f"the board or its server ended early: {last_line(log)}")
            return demo.report(await work)
        finally:
            for task in (work, *ends):
                task.cancel()
            await asyncio.gather(work, *ends, return_exceptions=True)


async def _board(
    entry: Path, folder: Path, log: Path, server: EmbeddedServer, models: Mapping[str, Path | None], memory_bytes: int
) -> asyncio.subprocess.Process:
    """Its process, in nothing but that folder."""
    credentials, lock, files = folder / "board.credentials", folder / "turnpike.models.lock", folder / "models"
    write_credentials(credentials, server.address(BOARD))
    files.mkdir()
    locked = {}
    for name, path in models.items():
        if path is not None:
            locked[name] = Locked("", "", path.name, await asyncio.to_thread(sha256_of, path), path.stat().st_size)
            locked[name].path_in(files, name).symlink_to(path.absolute())
    write_lock(lock, locked)
    command: list[str | Path] = [sys.executable, entry, "board", "--credentials", credentials, "--node", NAME]
    command += [word for name in models for word in ("--model", name)]
    command += [
        "--lock-file",
        lock,
        "--models-dir",
        files,
        "--data-dir",
        folder / "board",
        "--board-dir",
        folder / "kept",
    ]
    command += ["--memory-bytes", str(memory_bytes), "--park-bytes", str(PARK_BYTES), "--num-ctx", str(NUM_CTX)]
    # Nobody else waits: what is asked for is loaded as soon as the other one has been there for a moment.
    command += ["--max-wait-seconds", "0", "--min-stay-seconds", "0"]
    with log.open("wb") as output:
        return await spawn(command, stdout=output.fileno(), stderr=output.fileno())


class _BoardDemo:
    """The turns, and what is shown of them and of the board."""

    def __init__(self, console: Console, models: list[str], max_tokens: int, as_json: bool) -> None:
        self._console = console
        self._models = models
        self._sampling = Sampling(max_tokens=max_tokens)
        self._as_json = as_json
        self._began_at = time.perf_counter()
        self._states: dict[str, str] = {}

    async def run(self, server: EmbeddedServer) -> Figures:
        """Asks one model, the other one, and goes on with the first."""
        names = " and ".join(self._models)
        self._say(f"a board with room for one of two models, {names}, and a conversation with each")
        nc = await connect(server.address(OPERATOR), name="turnpike-demo")
        try:
            async with Watch(nc) as watch, Client(server.address(LOCAL)) as client, asyncio.TaskGroup() as group:
                following = group.create_task(self._follow(watch))
                await self._until_announced(watch)
                turns = await self._converse(client)
                state = _state(watch)
                following.cancel()
        finally:
            await close(nc)
        assert state is not None
        return Figures(turns, state.num_swaps, state.loading_seconds)

    async def _until_announced(self, watch: Watch) -> None:
        while _state(watch) is None:
            await watch.changed(1.0)

    async def _converse(self, client: Client) -> list[Told]:
        histories: dict[str, list[Message]] = {model: [] for model in self._models}
        turns = []
        for number, asked in ASKED:
            model = self._models[number]
            history = histories[model]
            history.append(Message("user", asked))
            self._say(f"{model} › {asked}")
            began_at = time.perf_counter()
            answer = client.ask(model, tuple(history), conversation=f"with-{model}", sampling=self._sampling)
            first_at = None
            async for _ in answer:
                first_at = first_at or time.perf_counter()
            waited = (first_at or time.perf_counter()) - began_at
            usage = answer.done.usage
            history.append(Message("assistant", answer.text))
            where = f" in the {usage.cached_in}" if usage.cached_in else ""
            self._say(
                f"{model}   {answer.text.strip()}  [{usage.prompt_tokens} prompt tokens, {usage.cached_tokens} of "
                f"them cached{where}]"
            )
            turns.append(
                Told(model, asked, answer.text, waited, usage.prompt_tokens, usage.cached_tokens, usage.cached_in)
            )
        return turns

    async def _follow(self, watch: Watch) -> None:
        """Says what becomes of each model."""
        while True:
            state = _state(watch)
            for one in state.models if state is not None else ():
                known = self._states.get(one.model, "available")
                self._states[one.model] = one.state
                if one.state != known:
                    self._say(
                        f"  [{one.model} is {one.state}]" if one.state != "available" else f"  [{one.model} has gone]"
                    )
            await watch.changed(1.0)

    def _say(self, text: str) -> None:
        if not self._as_json:
            self._console.print(f"{time.perf_counter() - self._began_at:5.1f} s  {text}", highlight=False, markup=False)

    def report(self, figures: Figures) -> int:
        """On stdout; the exit code."""
        if self._as_json:
            sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
            return 0
        title = f"turnpike demo --boards: {figures.num_swaps} swaps, {figures.loading_seconds:.1f} s of loading"
        table = FoldingTable("model", "asked", "first token after", "prompt tokens", "cached", "in the", title=title)
        for one in figures.turns:
            numbers = f"{one.wait_seconds:.1f} s", str(one.prompt_tokens), str(one.cached_tokens)
            table.add_row(one.model, one.asked, *numbers, one.cached_in or "")
        Console().print(table)
        return 0


def _state(watch: Watch) -> BoardState | None:
    return next((one for one in watch.placement().boards if one.board == NAME), None)
