"""`make soak`: full load with the shipped model for an hour; memory, descriptors and streams must stay flat.

python -m tests.chaos.soak [MINUTES]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from broker import jetstream, subjects
from broker.accounts import LOCAL, OPERATOR, WORKER, write_credentials
from broker.client import Client
from broker.connection import connect
from broker.messages import Message, Sampling, new_id
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from broker.topology import Limits
from tests.support import ROOT

MODEL = "demo"
CONCURRENCY = 8
SAMPLE_SECONDS = 5.0
MIB = 1024 * 1024
# Small bounds, so that an hour passes them many times over.
PARK_BYTES = 64 * MIB
LIMITS = Limits(max_reply_bytes=32 * MIB, max_end_bytes=32 * MIB)
QUESTIONS = (
    "Our mast is {} metres high.",
    "Node {} reports high temperature. What should I do?",
    "How high is our mast?",
    "How do I drain a node?",
    "What is {} plus 3?",
)


@dataclass
class Series:
    """What one process was seen to hold."""

    pid: int
    seconds: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self, at: float) -> None:
        process = psutil.Process(self.pid)
        self.seconds.append(at)
        self.rss.append(process.memory_info().rss)
        self.descriptors.append(process.num_fds())

    def row(self, name: str) -> str:
        """Slope over the second half, when everything that is allocated once has been."""
        half = len(self.seconds) // 2
        slope = statistics.linear_regression(self.seconds[half:], self.rss[half:]).slope * 3600 / MIB
        return (
            f"| {name} | {self.rss[half] / MIB:.1f} MiB | {self.rss[-1] / MIB:.1f} MiB | {slope:+.1f} MiB/h | "
            f"{self.descriptors[half]} | {self.descriptors[-1]} |"
        )


async def converse(client: Client, number: int, until: float, counts: dict[str, int]) -> None:
    """One conversation after the other, to their fifth question."""
    while time.perf_counter() < until:
        messages: list[Message] = []
        conversation = new_id()
        for question in QUESTIONS:
            messages.append(Message("user", question.format(number + 10)))
            done = await client.ask(MODEL, messages, conversation=conversation, sampling=Sampling(max_tokens=64))
            messages.append(Message("assistant", done.text))
            counts["turns"] += 1
            counts["tokens"] += len(done.tokens)


@asynccontextmanager
async def worker(server: EmbeddedServer) -> AsyncIterator[int]:
    credentials = server.folder / "worker.credentials"
    write_credentials(credentials, server.address(WORKER))
    command = [sys.executable, str(ROOT / "turnpike"), "worker", "--credentials", str(credentials)]
    process = await spawn([*command, "--log-level", "WARNING", "--park-bytes", str(PARK_BYTES)])
    try:
        yield process.pid
    finally:
        await terminate(process)


async def soak(minutes: float) -> int:
    counts = {"turns": 0, "tokens": 0}
    with tempfile.TemporaryDirectory(prefix="turnpike-soak-") as folder:
        async with EmbeddedServer(Path(folder)) as server:
            await server.ensure([MODEL], LIMITS)
            async with worker(server) as worker_pid, Client(server.address(LOCAL)) as client:
                async with asyncio.timeout(60):
                    while not await client.workers():
                        pass
                started = time.perf_counter()
                until = started + minutes * 60
                series = {
                    "worker": Series(worker_pid),
                    "nats-server": Series(server.pid),
                    "client": Series(psutil.Process().pid),
                }
                async with asyncio.TaskGroup() as group:
                    for number in range(CONCURRENCY):
                        group.create_task(converse(client, number, until, counts))
                    while time.perf_counter() < until:
                        await asyncio.sleep(SAMPLE_SECONDS)
                        for one in series.values():
                            one.sample(time.perf_counter() - started)
                sizes = await stream_bytes(server)
    print(f"{minutes:g} minutes, {counts['turns']} turns, {counts['tokens']} tokens\n")  # noqa: T201
    print("| process | memory at half time | at the end | slope | descriptors at half time | at the end |")  # noqa: T201
    print("|---|---|---|---|---|---|")  # noqa: T201
    for name, one in series.items():
        print(one.row(name))  # noqa: T201
    print("\n" + ", ".join(f"{name} {size / MIB:.1f} MiB" for name, size in sizes.items()))  # noqa: T201
    return 0


async def stream_bytes(server: EmbeddedServer) -> dict[str, int]:
    nc = await connect(server.address(OPERATOR), name="soak")
    found = {}
    for stream in (subjects.turns_stream(MODEL), subjects.REPLIES, subjects.ENDS):
        info = await jetstream.api(nc, f"STREAM.INFO.{stream}")
        assert info is not None
        found[stream] = int(info["state"]["bytes"])
    await nc.close()
    return found


if __name__ == "__main__":
    sys.exit(asyncio.run(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)))
