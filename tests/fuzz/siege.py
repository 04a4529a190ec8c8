"""A cluster of processes under fire: afterwards everything lives, and every turn that was taken has its end."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from broker import jetstream, subjects
from broker.accounts import LOCAL, OPERATOR, SIDECAR, WORKER
from broker.client import Client
from broker.connection import close, connect
from broker.errors import ServerError
from tests.cluster import Cluster, until_open
from tests.fuzz.doors import WORKER_NAME, Doors, answer_discovery_oddly
from tests.raw_nats import raw_client
from tests.support import TURNPIKE, free_port

MODEL = "demo"
NODE = "fuzzed"
KNOCKING = 64
"""Inputs on their way at once."""
SETTLE_SECONDS = 300.0
NUM_CTX = "512"
"""So that a mutant that asks for a million tokens is soon over."""


@dataclass(frozen=True)
class Account:
    """What was sent, and what came of it."""

    counts: Counter[str]
    num_acknowledged: int
    unanswered: list[str]
    problems: list[str]
    """Processes that ended, probes that failed, tracebacks and lost connections in the logs."""
    seconds: float

    def __str__(self) -> str:
        doors = ", ".join(f"{count} {name}" for name, count in self.counts.most_common())
        return (
            f"{self.counts.total()} inputs in {self.seconds:.0f} s ({doors}): {self.num_acknowledged} turns "
            f"acknowledged, {len(self.unanswered)} unanswered; problems: {self.problems or 'none'}"
        )


async def besiege(folder: Path, count: int, seed: int) -> Account:
    """Starts a cluster in the folder and sends `count` inputs through its doors."""
    rng = random.Random(seed)
    cluster = Cluster(folder, MODEL, ack_wait_seconds=10)
    health_port = free_port()
    started = time.perf_counter()
    await cluster.start_broker()
    try:
        await cluster.start_sidecar("--node", NODE, "--influx-url", f"file:{folder / 'points.lp'}")
        flags = ("--num-ctx", NUM_CTX, "--node", NODE, "--health-port", str(health_port), "--threads", "1")
        worker = await cluster.start_worker(WORKER_NAME, *flags)
        await until_open(health_port, worker)
        port = await cluster.start_gateway()
        async with AsyncExitStack() as stack:
            names = {"stranger": LOCAL, "peer": WORKER, "sidecar": SIDECAR, "operator": OPERATOR}
            users = {who: await stack.enter_async_context(raw_client(cluster.address(u))) for who, u in names.items()}
            doors = Doors(MODEL, rng, users, port, health_port, NODE)
            ghost = await connect(cluster.address(WORKER), name="ghost")
            stack.push_async_callback(close, ghost)
            await answer_discovery_oddly(ghost, rng, doors.counts)
            await _knock(doors, count)
            unanswered = await _unanswered(cluster, doors.acknowledged)
            problems = [
                *await asyncio.to_thread(lambda: list(probe(port, health_port))),
                *await _still_works(cluster, port),
            ]
        problems += [
            f"{part.pid} ended with {part.returncode}" for part in cluster.parts if part.returncode is not None
        ]
        problems += [line for log in sorted(folder.glob("*.log")) for line in bad_lines(log)]
        seconds = time.perf_counter() - started
        return Account(doors.counts, len(doors.acknowledged), unanswered, problems, seconds)
    finally:
        await cluster.close()


async def _knock(doors: Doors, count: int) -> None:
    left = iter(range(count))

    async def keep_on() -> None:
        for _ in left:  # shared by all
            await doors.knock()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(KNOCKING):
            group.create_task(keep_on())


async def _unanswered(cluster: Cluster, turns: list[str]) -> list[str]:
    """The turns without an end, after some patience."""
    nc = await connect(cluster.address(OPERATOR), name="account")
    until = time.monotonic() + SETTLE_SECONDS
    left = list(turns)
    try:
        while left:
            found = [await jetstream.last_stored(nc, subjects.ENDS, subjects.end(LOCAL, turn)) for turn in left]
            left = [turn for turn, end in zip(left, found, strict=True) if end is None]
            if left and time.monotonic() > until:
                break
    except ServerError as error:
        left.append(str(error))
    finally:
        await close(nc)
    return left


def probe(gateway_port: int, *worker_ports: int) -> Iterator[str]:
    """What says that it does not live, or is not ready."""
    urls = [f"{gateway_port}/health/live", f"{gateway_port}/health/ready"]
    for url in urls + [f"{port}/{name}" for port in worker_ports for name in ("live", "ready")]:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{url}", timeout=10).read()
        except OSError as error:
            yield f"{url}: {error}"


async def _still_works(cluster: Cluster, port: int) -> list[str]:
    """An honest question by both ways, and the commands that list what strangers have sent."""
    problems = []
    async with Client(cluster.address(LOCAL)) as client, asyncio.timeout(60):
        if not (await client.ask(MODEL, "How do I drain a node?")).text:
            problems.append("no answer by NATS")
    body = {"model": MODEL, "messages": [{"role": "user", "content": "How do I drain a node?"}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        answer = await asyncio.to_thread(lambda: json.load(urllib.request.urlopen(request, timeout=60)))
        assert answer["choices"][0]["message"]["content"]
    except (OSError, AssertionError) as error:
        problems.append(f"no answer by HTTP: {error}")
    for command, user in ((("dead", "list", "--json"), OPERATOR), (("top", "--once", "--json"), LOCAL)):
        whole = [*TURNPIKE, *command, "--credentials", str(cluster.credentials(user))]
        done = await asyncio.to_thread(subprocess.run, whole, capture_output=True, text=True, timeout=60)
        if done.returncode:
            problems.append(f"{' '.join(command)}: {done.stderr[-300:]}")
    return problems


def bad_lines(log: Path) -> Iterator[str]:
    """Tracebacks and lost connections."""
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("Traceback") or "disconnected" in line:
            yield f"{log.name}: {line[:200]}"
