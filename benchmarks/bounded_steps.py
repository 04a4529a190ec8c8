"""What do bounded steps cost? The same conversations with steps of 250 ms and with unbounded ones, side by side."""

from __future__ import annotations

import asyncio
import time

from benchmarks.harness import CORES, Row, show, system
from producers.data.datasets import load_conversations
from producers.load.run import run_load
from producers.records.figures import summarize
from producers.settings import LoadSettings
from tests.conftest import SHARED

NUM_CONVERSATIONS = 8
NUM_USER_TURNS = 2
MAX_TOKENS = 48
NUM_PAIRS = 1


async def run(budget: float) -> tuple[float, float]:
    """Wall seconds of the work, and the worst gap between tokens."""
    trees = SHARED / "oasst_en_trees.jsonl"
    conversations = load_conversations(trees if trees.exists() else None)[:NUM_CONVERSATIONS]
    options = LoadSettings(
        model="m",
        concurrency=NUM_CONVERSATIONS,
        max_tokens=MAX_TOKENS,
        max_user_turns=NUM_USER_TURNS,
        ignore_eos=True,
        # The same work in both: what was generated differs with where prefills are cut.
        history="dataset",
    )
    async with system("--threads", CORES, "--step-budget-seconds", budget, "--num-ctx", 16384) as running:
        started = time.perf_counter()
        records = await run_load(running.client, options, conversations)
        seconds = time.perf_counter() - started
    summary = summarize(records, seconds)
    assert not summary.num_failed
    return seconds, summary.itl_max_seconds or 0.0


def main() -> None:
    pairs = [(asyncio.run(run(0.25)), asyncio.run(run(1e6))) for _ in range(NUM_PAIRS)]
    ratio = sum(bounded[0] for bounded, _ in pairs) / sum(unbounded[0] for _, unbounded in pairs)
    (bounded, gap), (unbounded, free_gap) = pairs[-1]
    rows = [
        Row("wall time, bounded ÷ unbounded", f"{bounded:.1f} s", f"{unbounded:.1f} s", ratio, 1.10, at_most=True),
        Row("worst gap, bounded ÷ unbounded", f"{gap:.2f} s", f"{free_gap:.2f} s", gap / free_gap, 1.0, at_most=True),
    ]
    show(f"{NUM_CONVERSATIONS} OpenAssistant conversations at once, pairs of runs: {NUM_PAIRS}", rows)


if __name__ == "__main__":
    main()
