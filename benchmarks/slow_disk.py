"""What do readers of running answers notice when the broker's disk takes 10 ms for an fsync, as SD cards do?

Turns are published all the while, each synced before it is acknowledged. strace (Debian: strace) delays the calls.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import CORES, Row, show, system, text_of, timed
from broker import formulas
from broker.client import Client
from broker.server import EmbeddedServer, find_server

FSYNC_SECONDS = 0.010
PUBLISH_EVERY_SECONDS = 0.05
NUM_TOKENS = 192


@contextmanager
def slow_server(fsync_seconds: float) -> Iterator[None]:
    """A nats-server first on the PATH, whose every fsync takes so much longer."""
    real = find_server()
    before = os.environ["PATH"]
    with TemporaryDirectory(prefix="turnpike-slow-") as folder:
        wrapper = Path(folder) / "nats-server"
        delay = f"-e inject=fsync,fdatasync:delay_enter={round(fsync_seconds * 1e6)}"
        traced = f"strace -D -f --seccomp-bpf -o /dev/null -e trace=fsync,fdatasync {delay}"
        wrapper.write_text(f'#!/bin/sh\nexec {traced} {real} "$@"\n')
        wrapper.chmod(0o755)
        os.environ["PATH"] = f"{folder}:{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before


async def publish(server: EmbeddedServer, client: Client, stop: asyncio.Event, took: list[float]) -> None:
    """Turns for a model that nobody serves, until `stop`."""
    await server.ensure(["m", "unserved"])
    due = time.perf_counter()
    while not stop.is_set():
        due += PUBLISH_EVERY_SECONDS
        await asyncio.sleep(due - time.perf_counter())
        started = time.perf_counter()
        await client.publish(client.ask("unserved", "hello").turn, "unserved")
        took.append(time.perf_counter() - started)


async def gaps() -> tuple[list[float], list[float]]:
    """Between a stream's tokens; and what each publish beside it took, in seconds."""
    async with system("--threads", max(1, CORES - 1), "--coalesce-seconds", 0) as running:
        await timed(running.client, text_of(32), 16)
        stop, took = asyncio.Event(), list[float]()
        async with asyncio.TaskGroup() as group:
            group.create_task(publish(running.server, running.client, stop, took))
            found = await timed(running.client, text_of(32, 1), NUM_TOKENS)
            stop.set()
        between = [later - earlier for earlier, later in zip(found.times, found.times[1:], strict=False)]
        return between, took


def main() -> None:
    if shutil.which("strace") is None:
        show("a slow disk under the broker: left out, there is no strace here", [])
        return
    quick, quick_publish = asyncio.run(gaps())
    with slow_server(FSYNC_SECONDS):
        slow, slow_publish = asyncio.run(gaps())
    rows = []
    for name, at, target in (("median", 50, 1.1), ("p99", 99, 2.0)):
        ours, peer = formulas.percentile(slow, at) or 0.0, formulas.percentile(quick, at) or 0.0
        question = f"gap between tokens, {name}, fsync 10 ms ÷ as it is"
        rows.append(Row(question, f"{1000 * ours:.1f} ms", f"{1000 * peer:.1f} ms", ours / peer, target, at_most=True))
    ours, peer = formulas.percentile(slow_publish, 50) or 0.0, formulas.percentile(quick_publish, 50) or 0.0
    rows.append(
        Row(
            "publish, median, the same",
            f"{1000 * ours:.1f} ms",
            f"{1000 * peer:.1f} ms",
            ours / peer,
            100.0,
            at_most=True,
        )
    )
    show("a slow disk under the broker", rows)


if __name__ == "__main__":
    main()
