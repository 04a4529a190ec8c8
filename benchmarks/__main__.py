"""`make bench`: every benchmark, then one table with the ratios and the machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

from benchmarks.harness import ROOT, machine, model

QUESTIONS = (
    "latency",
    "footprint",
    "boards",
    "attention",
    "small_prefill",
    "single_stream",
    "speculation",
    "threads",
    "one_conversation",
    "batch",
    "long_prompt",
    "bounded_steps",
    "durable_replies",
    "slow_disk",
    "telemetry",
    "winogrande",
    "generator",
    "mirror",
    "card_writes",
    "parking",
    "swap",
    "checkpoints",
    "tool_calls",
    "static_tools",
    "handoff",
    "kinds",
    "embeddings",
    "neighbour",
    "grammars",
    "held_calls",
    "conversations",
    "gateway",
    "page",
    "queue",
    "placement",
    "router",
)


def main() -> int:
    results = ROOT / ".cache" / "bench.jsonl"
    results.parent.mkdir(exist_ok=True)
    results.unlink(missing_ok=True)
    model()
    for question in QUESTIONS:
        subprocess.run([sys.executable, "-m", f"benchmarks.{question}"], check=True, cwd=ROOT)
    table = Table(title=f"{time.strftime('%Y-%m-%d')}, {machine()}")
    for name in ("question", "ours", "peer", "result", "target", "met"):
        table.add_column(name)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    for row in rows:
        bound = f"{'≤' if row['at_most'] else '≥'} {row['target']:g}"
        met = "yes" if row["is_met"] else "NO"
        table.add_row(row["question"], row["ours"], row["peer"], f"{row['result']:.3g}", bound, met)
    Console(width=160).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
