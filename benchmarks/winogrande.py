"""Does `turnpike eval` choose as llama.cpp's own tool does, item by item?

The same model file (the shipped one), the same items, flash attention off in both.
"""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Row, show, system, tool
from producers.evaluate.items import read_items
from producers.evaluate.methods import Answered
from producers.evaluate.run import CHOICE, run
from workers.models import DEMO

NUM_ITEMS = 200
PEOPLE = ("the operator", "the engineer", "Anna", "Boris", "the red node", "the blue cable", "a very old antenna")
VERBS = ("called", "warned", "replaced", "checked", "moved")
TAILS = (
    "because _ was late for the shift.",
    "and _ had to wait for a long time before the alarm stopped.",
    "so _ was thanked by the whole team in the morning.",
    "since _ was broken by the storm",
)


def write_items(path: Path) -> None:
    """In the form that llama.cpp's tool reads: no quotes around the options, an empty line behind the last."""
    rng = random.Random(5)
    lines = []
    for number in range(NUM_ITEMS):
        one, two = rng.sample(PEOPLE, 2)
        sentence = f"{one[0].upper()}{one[1:]} {rng.choice(VERBS)} {two} {rng.choice(TAILS)}"
        lines.append(f'{number},"{sentence}",{one},{two},{rng.choice("12")}\n')
    path.write_text("".join(lines) + "\n")


def theirs(path: Path) -> dict[int, tuple[float, float, int]]:
    """By item: both scores and the choice, 1 or 2."""
    command = [tool("llama-perplexity"), "-m", DEMO.path, "--winogrande", "-f", path, "-t", 1, "-fa", "off", "-c", 512]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    lines = re.findall(r"^(\d+)\t\S+\s+(\S+)\s+(\S+)\s+([12])\s+[12]$", done.stdout + done.stderr, re.M)
    return {int(number): (float(one), float(two), int(choice)) for number, one, two, choice in lines}


async def ours(path: Path) -> list[Answered]:
    async with system("--deterministic", model_file=DEMO.path) as running:
        return await run(running.client, "m", read_items(path), CHOICE)


def main() -> None:
    with TemporaryDirectory(prefix="turnpike-bench-") as folder:
        path = Path(folder) / "items.csv"
        write_items(path)
        peer, found = theirs(path), asyncio.run(ours(path))
    same = sum(one.chosen("llama.cpp") + 1 == peer[one.number][2] for one in found)
    apart = sorted(
        max(abs(mine - other) for mine, other in zip(one.scores["llama.cpp"], peer[one.number], strict=False))
        for one in found
    )
    shown = f"{same} of {len(found)}", f"scores apart: median {apart[len(apart) // 2]:.1e}, most {apart[-1]:.1e}"
    show("Winogrande, the same items", [Row("the same choice as llama-perplexity", *shown, same / len(found), 0.99)])


if __name__ == "__main__":
    main()
