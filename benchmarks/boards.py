"""What does a board cost? Its memory and CPU while two of eight models are loaded and nobody asks, and what the first
token of a loaded model takes while it runs: beside the same worker while the board stands still."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.harness import Row, board, model, show
from broker.accounts import LOCAL
from broker.catalogue import Locked, sha256_of, write_lock
from broker.client import Client
from broker.messages import Sampling
from broker.server import EmbeddedServer
from workers.models import DEMO

MIB = 2**20
NUM_OFFERED = 8
LOADED = ("m0", "m1")
"""The shape of a real model, and a small one beside it."""
IDLE_SECONDS = 20.0
NUM_ROUNDS = 12
NUM_ASKED = 5
"""In each round, with the board running and standing still."""


@dataclass
class Running:
    """A board with its models loaded, and a client on its server."""

    client: Client
    process: psutil.Process


@asynccontextmanager
async def loaded_board() -> AsyncIterator[Running]:
    """With NUM_OFFERED models, of which two are loaded."""
    names = [f"m{number}" for number in range(NUM_OFFERED)]
    with TemporaryDirectory(prefix="turnpike-bench-") as name:
        folder = Path(name)
        (folder / "models").mkdir()
        locked = {}
        for one in names:
            file = model() if one == LOADED[0] else DEMO.path
            locked[one] = Locked("o/r", "c" * 40, file.name, sha256_of(file), file.stat().st_size)
            path = locked[one].path_in(folder / "models", one)
            if one == LOADED[0]:
                path.symlink_to(file)
            else:
                shutil.copyfile(file, path)
        write_lock(folder / "lock", locked)
        async with EmbeddedServer(folder / "server") as server:
            await server.ensure(names)
            flags: list[str | int | Path] = ["--lock-file", folder / "lock", "--models-dir", folder / "models"]
            flags += ["--num-ctx", 2048, "--log-level", "WARNING", *(f"--pin={one}" for one in LOADED)]
            async with board(server, folder, *flags) as process, Client(server.address(LOCAL)) as client:
                while {one.model for one in await client.workers() if one.is_serving} != set(LOADED):
                    assert process.returncode is None, "the board did not start"
                yield Running(client, psutil.Process(process.pid))


async def first_token(client: Client, number: int) -> float:
    """Seconds to the first token of a short answer."""
    started = time.perf_counter()
    answer = client.ask(LOADED[0], f"{number} radio node alarm", sampling=Sampling(max_tokens=4, ignore_eos=True))
    async for _ in answer:
        break
    seconds = time.perf_counter() - started
    await answer
    return seconds


async def compared(running: Running) -> tuple[float, float]:
    """The median seconds to a first token while the board runs, and while it stands still."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for number in range(NUM_ROUNDS):
        for is_running in (True, False) if number % 2 else (False, True):
            os.kill(running.process.pid, signal.SIGCONT if is_running else signal.SIGSTOP)
            for asked in range(NUM_ASKED):
                found[is_running].append(await first_token(running.client, 100 * number + asked))
    os.kill(running.process.pid, signal.SIGCONT)
    return statistics.median(found[True]), statistics.median(found[False])


async def measured() -> list[Row]:
    """A row for each question."""
    async with loaded_board() as running:
        process = running.process
        before, started = sum(process.cpu_times()[:2]), time.perf_counter()
        await asyncio.sleep(IDLE_SECONDS)  # being idle is what is measured
        share = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - started)
        memory = process.memory_info().rss / MIB
        with_board, without = await compared(running)
    offered = f"{len(LOADED)} of {NUM_OFFERED} models loaded"
    return [
        Row(f"a board's memory, {offered}, MiB", f"{memory:.1f} MiB", "–", memory, 40, at_most=True),
        Row(f"an idle board, {offered}, % of a core", f"{100 * share:.2f} %", "–", 100 * share, 0.5, at_most=True),
        Row(
            "a first token with a board beside its worker: time without ÷ with",
            f"{1000 * with_board:.1f} ms",
            f"{1000 * without:.1f} ms",
            without / with_board,
            0.98,
        ),
    ]


def main() -> None:
    show("boards", asyncio.run(measured()))


if __name__ == "__main__":
    main()
