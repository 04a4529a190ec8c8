"""By kind of cache: how much sooner is a conversation fetched from another worker than computed?

Random weights at dimensions that people run: a state's bytes and a prompt's seconds are those of the real models.
"""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

from benchmarks.handoff import moved
from benchmarks.harness import ROOT, Row, show
from benchmarks.parking import CONTEXT_TOKENS
from workers.llama.random_model import write_model
from workers.llama.shapes import SHAPES, Shape

NUM_CONVERSATIONS = 4
TARGET = 10
KINDS = {
    "full": SHAPES["0.5B"],
    "window, as Gemma 3 270M": Shape("270M-window", 640, 18, 4, 1, 2048, 32000, 32768, sliding_window=512),
    "short convolutions, as LFM2 350M": Shape("350M-convolutions", 1024, 16, 16, 8, 4608, 32000, 32768, conv_length=3),
    "recurrent, as Mamba 370M": Shape("370M-recurrent", 1024, 48, 16, 16, 2048, 32000, 32768, state_size=16),
    "gated delta net, as Qwen3.5 0.8B": Shape(
        "0.8B-delta", 1024, 24, 8, 2, 3584, 32000, 32768, state_size=128, hybrid="qwen35"
    ),
    "Mamba-2 hybrid, as Granite 4 H 350M": Shape(
        "350M-mamba2", 768, 32, 12, 4, 2048, 32000, 32768, state_size=128, hybrid="granitehybrid"
    ),
}


def file_of(shape: Shape) -> Path:
    """The model's file; it is made where there is none."""
    path = ROOT / ".cache" / f"bench-{shape.name}-q4_0.gguf"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_model(path, shape)
    return path


async def fetched(kind: str, path: Path) -> Row:
    """Of a conversation of 1,000 tokens: the time to the next turn's first token, computed ÷ fetched."""
    computed, _ = await moved(0, path, NUM_CONVERSATIONS)
    taken, fetching = await moved(1_000_000_000, path, NUM_CONVERSATIONS)
    print(f"{kind}: fetched {len(taken)}, computed {len(computed)} times; fetching {statistics.median(fetching):.3f} s")
    ours, without = statistics.median(taken), statistics.median(computed)
    name = f"{kind}: TTFT of the next turn on another worker, {CONTEXT_TOKENS} tokens: computed ÷ fetched"
    return Row(name, f"{ours * 1000:.0f} ms", f"{without * 1000:.0f} ms", without / ours, TARGET)


async def measure() -> list[Row]:
    return [await fetched(kind, file_of(shape)) for kind, shape in KINDS.items()]


def main() -> None:
    show("fetching by kind of cache", asyncio.run(measure()))


if __name__ == "__main__":
    main()
