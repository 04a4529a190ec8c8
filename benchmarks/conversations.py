"""Conversations that go on, against llama-server: how long do they take, how smoothly, and what is computed twice?

The same GGUF, texts, threads and bytes of cache for both, in rounds of mirrored order, of which the medians count.
llama-server runs with the quickest of a few settings. With DATASET=FILE the texts are OpenAssistant's threads of that
file.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.harness import CORES, ROOT, Row, Weights, model, show, text_of
from benchmarks.loads import (
    NUM_CTX,
    NUM_ROUNDS,
    NUM_SLOTS,
    ROTATION_CONVERSATIONS,
    ROTATION_TURNS,
    Measured,
    Server,
    busy_core,
    chatting,
    compared,
    measure,
    mirrored,
    rotating,
    texts,
    through_gateway,
    tuned,
    tuned_flags,
    turnpike,
)
from benchmarks.padded_model import write_padded
from broker.messages import Message
from broker.priorities import Priority

PADDED = ROOT / ".cache" / "models" / "demo-padded-Q4_0.gguf"
ROTATION_CTX = 4096
ROTATION_RAM_MIB = 1024
NUM_ARRIVALS = 6
PICTURE = ROOT / "docs" / "ttft.png"
OURS, THEIRS, PATCHED = "ours", "llama-server", "llama-server with our attention"


@dataclass(frozen=True)
class Asking:
    """Whom the questions are asked of, and how often."""

    models: tuple[Path, ...]
    """Empty: all that both servers make the same prompts for."""
    num_rounds: int
    flags: tuple[str | int, ...]
    """llama-server's, the quickest."""
    worker_flags: tuple[str, ...]
    """Ours, beyond those of the question."""
    patched: bool
    """Whether llama-server with our attention has rows, too."""

    def weights(self, *, that_write_text: bool = False) -> list[Weights]:
        """The models. Random weights answer in tokens that no tokenizer makes of their text again."""
        if self.models:
            return [Weights(one, one.stem) for one in self.models]
        if that_write_text:
            return [Weights(write_padded(PADDED)), *(one for one in chatting() if one.name is not None)]
        return chatting()

    async def of_all(self, servers: Mapping[str, Server], **load: Any) -> dict[str, list[Measured]]:
        """Each round's, of each server; `load` is what `measure` is given."""
        contestants = {name: partial(measure, server, **load) for name, server in servers.items()}
        return await mirrored(self.num_rounds, contestants)


async def saturated(asking: Asking) -> list[Row]:
    rows: list[Row] = []
    for weights in asking.weights():
        print(weights.of("saturated"), flush=True)
        servers = {
            OURS: turnpike("--threads", CORES, "--num-ctx", NUM_CTX, *asking.worker_flags, model_file=weights.file),
            THEIRS: tuned("-c", NUM_CTX, *asking.flags, model_file=weights.file),
        }
        load = texts(16, weights.file)
        found = await asking.of_all(servers, conversations=load, num_turns=3, num_tokens=64)
        draw(found[OURS][-1], found[THEIRS][-1], weights)
        targets = {"wall": 0.95, "median TTFT": 0.6, "worst TTFT": 1.0, "longest gap": 0.06}
        rows += compared(weights.of("16 conversations × 3 turns"), found[OURS], found[THEIRS], targets)
    return rows


async def own_answers(asking: Asking) -> list[Row]:
    rows: list[Row] = []
    for weights in asking.weights(that_write_text=True):
        print(weights.of("own answers"), flush=True)
        servers = {
            OURS: turnpike("--threads", CORES, "--num-ctx", NUM_CTX, *asking.worker_flags, model_file=weights.file),
            THEIRS: tuned("-c", NUM_CTX, *asking.flags, model_file=weights.file),
        }
        load = texts(16, weights.file)
        found = await asking.of_all(servers, conversations=load, num_turns=3, num_tokens=64, own_answers=True)
        name = weights.of("the same with the model's own answers")
        rows += compared(name, found[OURS], found[THEIRS], {"prompt tokens computed": 1.0, "wall": 0.95})
    return rows


async def eight(asking: Asking) -> list[Row]:
    """24 turns over HTTP to both, by the same client."""
    rows: list[Row] = []
    targets = {"wall": 0.9, "median TTFT": 0.6, "worst TTFT": 1.0, "longest gap": 0.3}
    for weights in asking.weights(that_write_text=True):
        print(weights.of("eight at once"), flush=True)
        ours = ("--threads", CORES, "--num-ctx", NUM_CTX)
        theirs = partial(tuned, "-c", NUM_CTX, *asking.flags, model_file=weights.file)
        servers = {
            OURS: through_gateway(*ours, *asking.worker_flags, model_file=weights.file),
            THEIRS: theirs(),
        } | ({PATCHED: theirs(patched=True)} if asking.patched else {})
        load = texts(NUM_SLOTS, weights.file)
        found = await asking.of_all(servers, conversations=load, num_turns=3, num_tokens=64, own_answers=True)
        name = weights.of(f"{NUM_SLOTS} at once × 3 turns over HTTP, own answers")
        rows += compared(name, found[OURS], found[THEIRS], targets)
        if asking.patched:
            rows += compared(f"{name}, {PATCHED}", found[OURS], found[PATCHED], targets)
    return rows


async def busy(asking: Asking) -> list[Row]:
    """The same beside a process that keeps a core busy: our defaults, llama-server whose threads spin, or do not."""
    rows: list[Row] = []
    spinning, waiting = THEIRS, f"{THEIRS} --poll 0"
    for weights in asking.weights(that_write_text=True):
        print(weights.of("beside a busy process"), flush=True)
        servers = {
            OURS: through_gateway("--num-ctx", NUM_CTX, *asking.worker_flags, model_file=weights.file),
            spinning: tuned("-c", NUM_CTX, *asking.flags, model_file=weights.file),
            waiting: tuned("-c", NUM_CTX, "--poll", 0, *asking.flags, model_file=weights.file),
        }
        load = texts(NUM_SLOTS, weights.file)
        found = await asking.of_all(
            servers, conversations=load, num_turns=3, num_tokens=64, own_answers=True, beside=busy_core
        )
        for theirs in (spinning, waiting):
            name = weights.of(f"the same beside a busy process, our defaults ÷ {theirs}")
            rows += compared(name, found[OURS], found[theirs], {"wall": 0.5})
    return rows


async def rotation(asking: Asking) -> list[Row]:
    rows: list[Row] = []
    for weights in asking.weights():
        print(weights.of("rotation"), flush=True)
        ours = ("--threads", CORES, "--num-ctx", ROTATION_CTX, "--park-bytes", ROTATION_RAM_MIB << 20)
        theirs = ("-c", ROTATION_CTX, "--cache-ram", ROTATION_RAM_MIB, *asking.flags)
        servers = {
            OURS: turnpike(*ours, *asking.worker_flags, model_file=weights.file),
            THEIRS: tuned(*theirs, model_file=weights.file),
        }
        found = await asking.of_all(
            servers, conversations=rotating(), num_turns=ROTATION_TURNS, num_tokens=8, in_rotation=True
        )
        name = weights.of(f"{ROTATION_CONVERSATIONS} in rotation over {NUM_SLOTS} slots × {ROTATION_TURNS} turns")
        targets = {"median TTFT of later turns": 0.4, "wall": 1.0}
        rows += compared(name, found[OURS], found[THEIRS], targets)
    return rows


async def interactive(server: Server) -> list[float]:
    """Times to first token of short turns that arrive while twice as many batch turns as slots want to be computed."""
    found: list[float] = []
    async with server() as peer:
        stop = asyncio.Event()

        async def batch(number: int) -> None:
            priority: Priority = "batch"
            turn = 0
            while not stop.is_set():
                await peer.ask(f"b{number}-{turn}", [Message("user", text_of(60, number + 100 * turn))], 96, priority)
                turn += 1

        async with asyncio.TaskGroup() as group:
            for number in range(2 * NUM_SLOTS):
                group.create_task(batch(number))
            await asyncio.sleep(15)  # until all slots are busy with answers of all ages
            for number in range(NUM_ARRIVALS):
                found.append((await peer.ask(f"i{number}", [Message("user", text_of(30, 1000 + number))], 8)).ttft)
                await asyncio.sleep(1)
            stop.set()
    return found


async def priorities(asking: Asking) -> list[Row]:
    medians = []
    worker_flags: tuple[str | int, ...] = ("--threads", CORES, "--num-ctx", NUM_CTX, *asking.worker_flags)
    for server in (turnpike(*worker_flags), tuned("-c", NUM_CTX, *asking.flags)):
        found = await interactive(server)
        print("interactive among batch:", " ".join(f"{one:.2f}" for one in found), flush=True)
        medians.append(statistics.median(found))
    ours, theirs = medians
    name = "an interactive turn among saturating batch turns: median TTFT"
    return [Row(name, f"{ours:.2f} s", f"{theirs:.2f} s", ours / theirs, 0.3, True)]


def draw(ours: Measured, theirs: Measured, weights: Weights) -> None:
    """Time to first token by turn, each turn a dot. A real model's picture takes the place of the random shape's."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for offset, name, colour, found in (
        (-0.15, "Turnpike", "#1f6f8b", ours),
        (0.15, "llama-server", "#c8553d", theirs),
    ):
        for number, turn in enumerate(found.turns, 1):
            ttft = sorted(one.ttft for one in turn)
            places = [number + offset + 0.1 * (index / max(1, len(ttft) - 1) - 0.5) for index in range(len(ttft))]
            axes.plot(places, ttft, ".", color=colour, alpha=0.6, label=name if number == 1 else None)
            axes.hlines(statistics.median(ttft), number + offset - 0.1, number + offset + 0.1, color=colour, lw=2.5)
    axes.set_xticks([1, 2, 3], ["turn 1", "turn 2", "turn 3"])
    axes.set_ylabel("time to first token, s")
    axes.set_ylim(bottom=0)
    title = "16 conversations × 3 turns, 8 at once; lines are medians"
    axes.set_title(weights.of(title), fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=140)
    plt.close(figure)


QUESTIONS: dict[str, Callable[[Asking], Awaitable[list[Row]]]] = {
    "saturated": saturated,
    "own_answers": own_answers,
    "eight": eight,
    "busy": busy,
    "rotation": rotation,
    "priorities": priorities,
}


async def measure_all(options: argparse.Namespace) -> list[Row]:
    model()
    flags = await tuned_flags(anew=options.sweep)
    worker_flags = tuple(shlex.split(options.worker_flags))
    asking = Asking(tuple(options.model_file), options.rounds, flags, worker_flags, options.patched)
    rows: list[Row] = []
    for name, question in QUESTIONS.items():
        if name in options.questions or not options.questions:
            rows += await question(asking)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversations", description=__doc__)
    parser.add_argument(
        "questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}; all of them without"
    )
    parser.add_argument("--model-file", type=Path, nargs="+", default=[], help="instead of all models")
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="in mirrored order")
    parser.add_argument("--worker-flags", default="", help="for `turnpike worker`, as one text")
    parser.add_argument("--patched", action="store_true", help="eight: llama-server with our attention, too")
    parser.add_argument("--sweep", action="store_true", help="look for llama-server's quickest setting first")
    options = parser.parse_args()
    if unknown := set(options.questions) - QUESTIONS.keys():
        parser.error(f"no question: {', '.join(sorted(unknown))}")
    show("conversations that go on, against llama-server", asyncio.run(measure_all(options)))


if __name__ == "__main__":
    main()
