"""What do the processes weigh? The worker beside its model, an idle worker's CPU, the command's start."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.harness import CORES, ROOT, Row, model, show, system, timed
from benchmarks.resident import Measured, measure, real_models, resident

MIB = 2**20
REAL_CTX = 4096
REAL_PARK_BYTES = 64 * MIB
NUM_CTX = 8192
NUM_UBATCH = 256
BYTES_PER_TOKEN = 22528
IDLE_SECONDS = 10.0


async def worker() -> tuple[float, float]:
    """MiB beyond file, repacked weights and KV; CPU of an idle worker in per cent of a core."""
    from workers.llama.context import LlamaModel

    loaded = LlamaModel(model())
    repacked = sum(size for name, size in loaded.buffers.items() if "REPACK" in name or "AMX" in name)
    loaded.close()
    async with system("--threads", max(1, CORES - 1), "--num-ctx", NUM_CTX, "--num-ubatch", NUM_UBATCH) as running:
        await timed(running.client, "radio " * 600, 32)
        tree = [psutil.Process(running.worker.pid), *psutil.Process(running.worker.pid).children(recursive=True)]
        _, rest = resident(running.worker.pid)
        before = sum(sum(process.cpu_times()[:2]) for process in tree)
        await asyncio.sleep(IDLE_SECONDS)  # being idle is what is measured
        after = sum(sum(process.cpu_times()[:2]) for process in tree)
    own = rest - repacked - NUM_CTX * BYTES_PER_TOKEN
    return own / 2**20, 100 * (after - before) / IDLE_SECONDS


def show_plan(name: str, found: Measured) -> None:
    """Planned and measured by purpose; what is no buffer of llama.cpp's own log is what is left of the whole."""
    plan = found.plan
    table = Table(title=f"{name}: memory at work, MiB")
    for column in ("purpose", "planned", "measured", "ratio"):
        table.add_column(column)
    for purpose, planned, measured in (
        ("weights", plan.weights, found.weights),
        ("KV cache, by llama.cpp's log", plan.kv, found.kv),
        ("computing, by llama.cpp's log", plan.compute, found.buffers),
        ("parked", plan.offload_cache, found.offloaded),
        ("processes, and what was left untouched", plan.process, found.process),
        ("all at work", plan.total, found.at_work),
        ("all at rest, of what is not parked", plan.total - plan.offload_cache, found.at_rest),
    ):
        table.add_row(purpose, f"{planned / MIB:.1f}", f"{measured / MIB:.1f}", f"{measured / planned:.3f}")
    Console(width=160).print(table)


def plans() -> list[Row]:
    """A worker's memory at work ÷ its plan, with each real model that is here (`make real-models`)."""
    rows = []
    for name, path in real_models().items():
        found = asyncio.run(measure(path, num_ctx=REAL_CTX, num_slots=8, park_bytes=REAL_PARK_BYTES))
        show_plan(name, found)
        ratio = found.at_work / found.plan.total
        ours, planned = f"{found.at_work / MIB:.0f} MiB", f"{found.plan.total / MIB:.0f} MiB planned"
        question = f"{name}: a worker's memory at work ÷ its plan"
        rows += [
            Row(question, ours, planned, ratio, 1.03, at_most=True),
            Row(question, ours, planned, ratio, 0.97),
        ]
    return rows


def start_seconds() -> float:
    """The best of five starts of `turnpike --help`."""
    best = 9.0
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, str(ROOT / "turnpike"), "--help"], check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    own, idle = asyncio.run(worker())
    seconds = start_seconds()
    rows = [
        Row(
            f"worker memory beyond model and KV, MiB, ubatch {NUM_UBATCH}",
            f"{own:.0f} MiB",
            "–",
            own,
            200,
            at_most=True,
        ),
        Row("an idle worker, % of a core", f"{idle:.2f} %", "–", idle, 1.0, at_most=True),
        Row("turnpike --help, ms", f"{seconds * 1000:.0f} ms", "–", seconds * 1000, 150, at_most=True),
    ]
    show("memory and idle cost", rows + plans())


if __name__ == "__main__":
    main()
