"""What do the processes weigh? The worker beside its model, an idle worker's CPU, the command's start."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.harness import CORES, ROOT, Row, model, show, system, timed

NUM_CTX = 8192
NUM_UBATCH = 256
BYTES_PER_TOKEN = 22528
IDLE_SECONDS = 10.0


def pss(pid: int) -> tuple[int, int]:
    """Bytes of a process in all, and of the model file in it."""
    total = file = 0
    is_model = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            is_model = line.endswith(".gguf")
        elif line.startswith("Pss:"):
            size = int(line.split()[1]) * 1024
            total += size
            file += size if is_model else 0
    return total, file


async def worker() -> tuple[float, float]:
    """MiB beyond file, repacked weights and KV; CPU of an idle worker in per cent of a core."""
    from workers.llama.context import LlamaModel

    loaded = LlamaModel(model())
    repacked = sum(size for name, size in loaded.buffers.items() if "REPACK" in name or "AMX" in name)
    loaded.close()
    async with system("--threads", max(1, CORES - 1), "--num-ctx", NUM_CTX, "--num-ubatch", NUM_UBATCH) as running:
        await timed(running.client, "radio " * 600, 32)
        tree = [psutil.Process(running.worker.pid), *psutil.Process(running.worker.pid).children(recursive=True)]
        sizes = [pss(process.pid) for process in tree]
        total, file = (sum(column) for column in zip(*sizes, strict=True))
        before = sum(sum(process.cpu_times()[:2]) for process in tree)
        await asyncio.sleep(IDLE_SECONDS)  # being idle is what is measured
        after = sum(sum(process.cpu_times()[:2]) for process in tree)
    own = total - file - repacked - NUM_CTX * BYTES_PER_TOKEN
    return own / 2**20, 100 * (after - before) / IDLE_SECONDS


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
    show("memory and idle cost", rows)


if __name__ == "__main__":
    main()
