"""What is computed again after a model was swapped out and in, on its board and on another? How long does it take?

Eight conversations of 1,000 tokens over four slots, a worker process that is drained, and another one: on the same
board, which finds them in its memory, or on another, which is given them by the first. Without a board's memory: all
of it is computed again.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import CORES, ROOT, Row, Weights, asked_for, show, text_of, timed
from benchmarks.parking import CONTEXT_TOKENS, Conversation
from broker.accounts import LOCAL, WORKER, write_credentials
from broker.client import Client
from broker.connection import close, connect
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from workers.boards.parked import MEMORY, Parked

NUM_CONVERSATIONS = 8
FLAGS = ("--num-slots", 4, "--num-ctx", 8192, "--park-bytes", 1 << 30, "--log-level", "WARNING")
MAX_BYTES = 1 << 31
DRAIN_SECONDS = 120.0


@dataclass
class Cluster:
    """A broker, and two boards' memories."""

    client: Client
    credentials: Path
    boards: tuple[Parked, Parked]
    group: asyncio.TaskGroup

    @asynccontextmanager
    async def worker(self, weights: Weights, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """From its first turn, which is nobody's, on."""
        command = [sys.executable, ROOT / "turnpike", "worker", "--model-file", weights.file, "--model", "m"]
        command += ["--credentials", self.credentials, "--threads", CORES, *FLAGS, *flags]
        worker = await spawn([*map(str, command)], env={"PYTHONPATH": str(ROOT)})
        try:
            while not await self.client.workers():
                assert worker.returncode is None, "the worker did not start"
            await timed(self.client, text_of(32), 4)
            yield worker
        finally:
            await terminate(worker, grace=DRAIN_SECONDS)


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    with TemporaryDirectory(prefix="turnpike-swap-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        async with EmbeddedServer(Path(folder) / "server") as server:
            await server.ensure(["m"])
            credentials = Path(folder) / "worker.credentials"
            write_credentials(credentials, server.address(WORKER))
            nc = await connect(server.address(WORKER), name="boards")
            async with Client(server.address(LOCAL)) as client, asyncio.TaskGroup() as group:
                one, other = (Parked(nc, name, Path(folder) / name, MAX_BYTES) for name in ("one", "other"))
                yield Cluster(client, credentials, (one, other), group)
                await one.close()
                await other.close()
            await close(nc)


@dataclass(frozen=True)
class Swapped:
    """What a swap has come to."""

    share_again: float
    """Of the tokens that had been computed, those that were computed again."""
    ttft: float
    kept_bytes: int
    drain_seconds: float


async def swapped(weights: Weights, how: str) -> Swapped:
    """`here`: by the next worker on the board; `there`: on another board; `none`: no board keeps anything."""
    async with cluster() as here:
        one, other = here.boards
        conversations = [Conversation(here.client, f"c{number}") for number in range(NUM_CONVERSATIONS)]
        async with here.worker(weights, *(one.worker_flags if how != "none" else ())) as worker:
            told = [await talk.next(text_of(CONTEXT_TOKENS, number)) for number, talk in enumerate(conversations)]
            known = [done.usage.prompt_tokens + done.usage.completion_tokens for done in told]
            started = time.perf_counter()
            await terminate(worker, grace=DRAIN_SECONDS)
            drain_seconds = time.perf_counter() - started
        kept_bytes = one.num_bytes
        if how == "there":
            await one.start("m", here.group)
        flags = {"here": one.worker_flags, "there": other.worker_flags, "none": ()}[how]
        async with here.worker(weights, *flags):
            again = 0
            for most, talk in zip(known, conversations, strict=True):
                done = await talk.next("And now?")
                again += max(0, most - done.usage.cached_tokens)
                assert how == "none" or done.usage.cached_in == {"here": "board", "there": "peer"}[how], done.usage
        ttft = statistics.median(talk.ttft[-1] for talk in conversations)
        return Swapped(again / sum(known), ttft, kept_bytes, drain_seconds)


async def measure(models: list[Weights]) -> list[Row]:
    rows = []
    for weights in models:
        found = {how: await swapped(weights, how) for how in ("here", "there", "none")}
        none = found["none"]
        # Another board is given them at half of what gigabit Ethernet gives, though both are this machine.
        for how, where, ttft in (("here", "on its board", 10), ("there", "on another board", 2)):
            one = found[how]
            question = f"{NUM_CONVERSATIONS} × {CONTEXT_TOKENS} tokens after a swap, {where}: computed again"
            shares = f"{one.share_again:.2%}", f"{none.share_again:.2%}"
            rows.append(Row(weights.of(question), *shares, one.share_again, 0.02, at_most=True))
            times = f"{one.ttft * 1000:.0f} ms", f"{none.ttft * 1000:.0f} ms"
            rows.append(Row(weights.of(f"TTFT then, {where}: computed ÷ kept"), *times, none.ttft / one.ttft, ttft))
        here = found["here"]
        longer = here.drain_seconds - none.drain_seconds
        drain = f"{here.drain_seconds:.2f} s", f"{none.drain_seconds:.2f} s"
        question = f"what a drain takes longer, s, for {here.kept_bytes / 2**20:.0f} MiB"
        rows.append(Row(weights.of(question), *drain, longer, 2.0, at_most=True))
    return rows


def main() -> None:
    show("conversations over a swap of models", asyncio.run(measure(asked_for(__doc__))))


if __name__ == "__main__":
    main()
