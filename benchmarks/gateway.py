"""What does the gateway add, in each dialect? Time to first token against our own client, many streams at once, memory
over requests.

A worker whose engine computes nothing and an embedder that is none in a process of their own, one gateway process a
dialect: what is measured is the way. Requests are streamed as the dialect's own clients stream them, with what those
leave out left out (a response is stored). What reads over HTTP does no more than that: what a client adds is not the
gateway's. For memory 16 are in flight, the first token is asked for one by one, by our client and through the gateway
in turns. Two things are told of that: the difference of the percentiles, and the percentiles of the differences of
pairs, whose p99 is also of what else the machine did to one of a pair. Twelve minutes on two cores; `--requests 200
--pairs 10` for a first look.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.gateway_dialects import DIALECTS, MODEL, SLOW, VECTORS, Asked, Came
from benchmarks.gateway_workers import NUM_STREAMS, SHORT, STREAM_TOKENS
from benchmarks.harness import ROOT, Row, gateway, keep
from benchmarks.http_reader import HttpReader
from broker.accounts import LOCAL, WORKER, write_credentials
from broker.client import Client
from broker.process import spawn, terminate
from broker.server import EmbeddedServer

NUM_PAIRS = 300
NUM_WARM = 20
NUM_REQUESTS = 10_000
NUM_LOOKS = 10
IN_FLIGHT = 16
SHARES = (0.5, 0.99)


@dataclass(frozen=True)
class Figures:
    """Of one dialect; seconds, and memory in MiB."""

    name: str
    ours: list[float]
    """To the first token, pair by pair."""
    through: list[float]
    ours_at_once: list[float]
    """To the first tokens of many streams."""
    through_at_once: list[float]
    ends: list[float]
    """Of those through the gateway."""
    ours_took: float
    memory: list[float]
    """Of the gateway, each tenth of the requests."""
    num_requests: int

    @property
    def added(self) -> list[float]:
        """By the gateway, pair by pair."""
        return [through - ours for ours, through in zip(self.ours, self.through, strict=True)]

    @property
    def slope(self) -> float:
        """KiB for each thousand requests, of a line through all looks."""
        numbers = [(index + 1) * self.num_requests / NUM_LOOKS / 1000 for index in range(len(self.memory))]
        return statistics.linear_regression(numbers, self.memory).slope * 1024

    def rows(self) -> list[Row]:
        """What is kept, with the targets."""
        rows = []
        for name, share, target in (("p50", 0.5, 3.0), ("p99", 0.99, 10.0)):
            through, ours, added = (at(found, share) * 1000 for found in (self.through, self.ours, self.added))
            question = f"{self.name}: time to first token through the gateway − by our own client, {name}, ms"
            rows.append(Row(question, f"{through:.2f}", f"{ours:.2f}", through - ours, target, True))
            rows.append(Row(f"{self.name}: … {name} of the differences of pairs, ms", "", "", added, target, True))
        last, middle = max(self.ends), statistics.median(self.ends)
        question = f"{self.name}: {len(self.ends)} streams at once: the last one's end ÷ the median's"
        rows.append(Row(question, f"{last:.1f} s", f"{middle:.1f} s", last / middle, 2.0, True))
        early, late = self.memory[0], self.memory[-1]
        num = self.num_requests
        question = f"{self.name}: the gateway's memory after {num:,} requests ÷ after {num // NUM_LOOKS:,}"
        rows.append(Row(question, f"{late:.1f} MiB", f"{early:.1f} MiB", late / early, 1.05, True))
        return rows


def at(values: Sequence[float], share: float) -> float:
    """The value that so large a share is not above."""
    return sorted(values)[int(share * (len(values) - 1))]


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Client, HttpReader, psutil.Process]]:
    """A broker, a process of workers, and a gateway process."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="turnpike-bench-")))
        server = await stack.enter_async_context(EmbeddedServer(folder / "store"))
        await server.ensure([MODEL, SLOW, VECTORS])
        credentials = folder / "worker.credentials"
        write_credentials(credentials, server.address(WORKER))
        command = [sys.executable, "-m", "benchmarks.gateway_workers", str(credentials)]
        stack.push_async_callback(terminate, await spawn(command, env={"PYTHONPATH": str(ROOT)}))
        client = await stack.enter_async_context(Client(server.address(LOCAL)))
        async with asyncio.timeout(60):
            while len(await client.workers()) < 3:
                pass
        url, process = await stack.enter_async_context(gateway(server))
        http = HttpReader(url)
        stack.callback(http.close)
        gc.collect()
        gc.freeze()  # the pauses of who measures are not what is measured
        yield client, http, psutil.Process(process.pid)


async def memory(dialect: Asked, http: HttpReader, process: psutil.Process, num_requests: int) -> list[float]:
    """Of the gateway's process, each tenth of the requests, a few at once."""
    numbers = iter(range(1, num_requests + 1))
    seen: list[float] = []

    async def work() -> None:
        for number in numbers:
            came = await dialect.ask(http, MODEL, f"{number} " + "words " * (number % 50), len(SHORT))
            assert came.num == len(SHORT)
            if number % (num_requests // NUM_LOOKS) == 0:
                seen.append(process.memory_info().rss / 2**20)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return seen


async def pairs(dialect: Asked, client: Client, http: HttpReader, num_pairs: int) -> tuple[list[float], list[float]]:
    """Seconds to the first token by our client and through the gateway, one by one, so that what else the machine does
    falls on both; each is the first of every other pair."""
    ours: list[float] = []
    through: list[float] = []
    for number in range(num_pairs + NUM_WARM):
        for is_ours in (number % 2 == 0, number % 2 == 1):
            if is_ours:
                ours.append((await dialect.ask_ourselves(client, MODEL, f"a{number}", len(SHORT))).first_seconds)
            else:
                through.append((await dialect.ask(http, MODEL, f"b{number}", len(SHORT))).first_seconds)
    return ours[NUM_WARM:], through[NUM_WARM:]


async def at_once(ask: Callable[[int], Awaitable[Came]]) -> tuple[list[float], list[float]]:
    """Seconds to the first token of each of many streams, and to its end."""
    began_at = time.perf_counter()

    async def one(number: int) -> tuple[float, float]:
        came = await ask(number)
        assert came.num == STREAM_TOKENS, "a text that is not whole"
        return came.first_seconds, time.perf_counter() - began_at

    found = await asyncio.gather(*(one(number) for number in range(NUM_STREAMS)))
    return [first for first, _ in found], [end for _, end in found]


async def measured(dialect: Asked, num_requests: int, num_pairs: int) -> Figures:
    """Memory first, while the process is young."""
    async with running() as (client, http, process):
        seen = await memory(dialect, http, process, num_requests)
        ours, through = await pairs(dialect, client, http, num_pairs)
        ours_at_once, ours_ends = await at_once(
            lambda number: dialect.ask_ourselves(client, SLOW, f"o{number}", STREAM_TOKENS)
        )
        through_at_once, ends = await at_once(lambda number: dialect.ask(http, SLOW, f"s{number}", STREAM_TOKENS))
    took = max(ours_ends)
    return Figures(dialect.name, ours, through, ours_at_once, through_at_once, ends, took, seen, num_requests)


def show(all_figures: Sequence[Figures]) -> None:
    """One row a dialect."""
    table = Table(title="the gateway, by our client / through it; p50 and p99 in ms")
    for name in (
        "dialect",
        "TTFT ours",
        "through",
        "difference",
        "pairs differ by",
        f"{NUM_STREAMS} streams",
        "longest TTFT",
    ):
        table.add_column(name)
    num = all_figures[0].num_requests
    for name in (f"MiB at {num // NUM_LOOKS:,}", f"at {num:,}", "KiB / 1,000"):
        table.add_column(name, justify="right")
    for one in all_figures:
        ours, through, pairs_differ = (
            [at(found, share) * 1000 for share in SHARES] for found in (one.ours, one.through, one.added)
        )
        differences = [late - early for early, late in zip(ours, through, strict=True)]
        told = [", ".join(f"{value:.2f}" for value in found) for found in (ours, through, differences, pairs_differ)]
        took = f"{one.ours_took:.1f} / {max(one.ends):.1f} s"
        longest = f"{max(one.ours_at_once):.2f} / {max(one.through_at_once):.2f} s"
        grown = (f"{one.memory[0]:.1f}", f"{one.memory[-1]:.1f}", f"{one.slope:+.0f}")
        table.add_row(one.name, *told, took, longest, *grown)
    Console(width=160).print(table)


async def measure(dialects: Sequence[Asked], num_requests: int, num_pairs: int) -> list[Figures]:
    """One dialect after the other."""
    found = []
    for dialect in dialects:
        began_at = time.perf_counter()
        found.append(await measured(dialect, num_requests, num_pairs))
        print(f"{dialect.name}: {time.perf_counter() - began_at:.0f} s", flush=True)
    return found


def main() -> None:
    """Prints the table, and keeps its rows."""
    names = [one.name for one in DIALECTS]
    parser = argparse.ArgumentParser(description="what does the gateway add, in each dialect?")
    parser.add_argument("--dialects", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--requests", type=int, default=NUM_REQUESTS, help="for the memory; each tenth is looked at")
    parser.add_argument("--pairs", type=int, default=NUM_PAIRS, help="of first tokens")
    wanted = parser.parse_args()
    dialects = [one for one in DIALECTS if one.name in wanted.dialects]
    found = asyncio.run(measure(dialects, wanted.requests, wanted.pairs))
    show(found)
    keep([row for figures in found for row in figures.rows()])


if __name__ == "__main__":
    main()
