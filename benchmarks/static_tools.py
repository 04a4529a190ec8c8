"""What does a second conversation wait for its first token that begins with the same tools as one before it?

Some 2,000 tokens of tools and a short question each: the first conversation computes the tools, the second finds them
in the context. Beside a second worker, the same where the other one answers: what it computed is counted.

`python -m benchmarks.static_tools [FILE…]`, with the real models that are there or with these files.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.handoff import another_worker
from benchmarks.harness import CORES, Row, System, Weights, all_weights, show, system
from broker.messages import Done, Message, Sampling, Tool

NUM_TOOLS = 24
"""About 2,000 tokens in the templates of Qwen2.5."""
NUM_PAIRS = 3
NUM_CTX = 8192
MAX_TRIES = 8
SAMPLING = Sampling(max_tokens=2, ignore_eos=True)


def tools(salt: int) -> tuple[Tool, ...]:
    """Those of one site: no other salt's begin so."""
    place = {"type": "string", "enum": ["kitchen", "hall", "attic", "workshop"], "description": "which room it is in"}
    percent = {"type": "integer", "minimum": 0, "maximum": 100, "description": "how far, in percent of the most"}
    schema = {"type": "object", "properties": {"room": place, "percent": percent}, "required": ["room"]}
    return tuple(
        Tool(f"site_{salt}_set_{number}", f"Sets device {number} of site {salt} in one of its rooms", schema)
        for number in range(NUM_TOOLS)
    )


@dataclass(frozen=True)
class First:
    """A conversation's first turn: seconds to its first token, and its end."""

    ttft: float
    done: Done

    @property
    def num_computed(self) -> int:
        return self.done.usage.prompt_tokens - self.done.usage.cached_tokens


async def first_turn(here: System, name: str, salt: int) -> First:
    """Of a conversation of that name, beside the tools of that salt."""
    started = time.perf_counter()
    answer = here.client.ask(
        "m",
        [
            Message(
                "user",
                f"Set device 3 in the {'hall' if name.startswith('a') else 'workshop, at a third of its power'}.",
            )
        ],
        conversation=name,
        tools=tools(salt),
        sampling=SAMPLING,
    )
    first: float | None = None
    async for chunk in answer:
        first = first if first is not None or not chunk.tokens else time.perf_counter() - started
    assert first is not None
    return First(first, answer.done)


def row(weights: Weights, where: str, pairs: list[tuple[First, First]]) -> Row:
    """The second's time to first token ÷ the first's, medians."""
    seconds = [statistics.median(one.ttft for one in side) for side in zip(*pairs, strict=True)]
    first, second = pairs[-1]
    print(f"{where}: computed {first.num_computed} and then {second.num_computed} of {second.done.usage.prompt_tokens}")
    name = weights.of(f"TTFT of a second conversation behind the same {NUM_TOOLS} tools ÷ the first's, {where}")
    return Row(name, f"{seconds[1] * 1e3:.0f} ms", f"{seconds[0] * 1e3:.0f} ms", seconds[1] / seconds[0], 0.1, True)


async def measured(weights: Weights) -> list[Row]:
    flags = ("--threads", CORES, "--num-slots", 4, "--num-ctx", NUM_CTX)
    async with system(*flags, model_file=weights.file) as here:
        alone = [
            (await first_turn(here, f"a{salt}", salt), await first_turn(here, f"b{salt}", salt))
            for salt in range(NUM_PAIRS)
        ]
        async with another_worker(here, *flags, model_file=weights.file):
            elsewhere = []
            for salt in range(NUM_PAIRS, NUM_PAIRS + MAX_TRIES):
                one, other = await first_turn(here, f"a{salt}", salt), await first_turn(here, f"b{salt}", salt)
                if one.done.worker != other.done.worker:
                    elsewhere.append((one, other))
                if len(elsewhere) == NUM_PAIRS:
                    break
    found = [row(weights, "on one worker", alone)]
    return [*found, row(weights, "on another worker", elsewhere)] if elsewhere else found


async def measure(files: list[Path]) -> list[Row]:
    named = [Weights(file, file.stem) for file in files] or [one for one in all_weights() if one.name is not None][:1]
    return [row for weights in named for row in await measured(weights)]


def main() -> None:
    show("tools that many conversations begin with", asyncio.run(measure([Path(name) for name in sys.argv[1:]])))


if __name__ == "__main__":
    main()
