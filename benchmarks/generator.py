"""Does the load generator send when it should, and what does it cost? 200 turns a second for a minute.

The workers' engine computes nothing and answers in four chunks, so all that is late is the generator's, the server's or
the machine's. `python -m benchmarks.generator 10` takes ten seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time

import psutil

from benchmarks.harness import Row, show
from benchmarks.queue import server, workers
from broker import formulas
from broker.accounts import LOCAL
from broker.client import Client
from broker.messages import Message
from producers.data.datasets import Conversation
from producers.load.run import run_load
from producers.settings import LoadSettings

RATE = 200
SECONDS = 60
LATE_SECONDS = 0.005


async def measure(seconds: float) -> tuple[list[float], float, int]:
    """How late each turn was sent, the generator's share of a core, and how many were answered."""
    conversations = [Conversation(f"c{n}", (Message("user", "hello"), Message("user", "again"))) for n in range(200)]
    options = LoadSettings(model="m", arrivals=f"poisson:{RATE}", duration_seconds=seconds)
    async with server() as running, workers(running, 4), Client(running.address(LOCAL)) as client:
        process = psutil.Process()
        before, started = sum(process.cpu_times()[:2]), time.perf_counter()
        turns = await run_load(client, options, conversations)
        share = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - started)
        late = [turn.sent_at - turn.scheduled_at for turn in turns if turn.scheduled_at is not None]
        return late, share, sum(not turn.is_failed for turn in turns)


def main() -> None:
    late, share, answered = asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS))
    in_time = sum(one <= LATE_SECONDS for one in late) / len(late)
    p99 = formulas.percentile(late, 99) or 0.0
    shown = f"{100 * in_time:.2f} %", f"p99 {1000 * p99:.1f} ms late"
    rows = [
        Row(f"sent within 5 ms of the schedule, {RATE}/s", *shown, in_time, 0.99),
        Row("turns answered ÷ sent", str(answered), str(len(late)), answered / len(late), 1.0),
        Row("the generator's share of a core", f"{100 * share:.0f} %", "–", share, 0.10, at_most=True),
    ]
    show("the load generator", rows)


if __name__ == "__main__":
    main()
