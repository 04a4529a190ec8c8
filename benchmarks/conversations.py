"""Conversations that go on, against llama-server: how long do they take, how smoothly, and what is computed twice?

The same GGUF, texts, threads and bytes of cache for both. llama-server runs with the quickest of a few settings. With
DATASET=FILE the texts are OpenAssistant's threads of that file, else the shipped set's.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

from benchmarks.harness import CORES, ROOT, Row, Weights, all_weights, model, show, system, text_of
from benchmarks.padded_model import write_padded
from benchmarks.peers import Asked, Peer, Turnpike, llama_server
from broker.messages import Message
from broker.priorities import Priority
from producers.data.datasets import Conversation, load_conversations
from workers.gguf_header import read_header
from workers.llama.context import LlamaModel

PADDED = ROOT / ".cache" / "models" / "demo-padded-Q4_0.gguf"
NUM_CTX = 16384
NUM_SLOTS = 8
MAX_HISTORY_TOKENS = 1600
"""Of a conversation's first five messages: TinyLlama's context is 2,048 tokens."""
SWEEP: tuple[tuple[str | int, ...], ...] = (
    ("-kvu",),
    ("-kvu", "-ub", 256),
    ("-kvu", "-b", 512, "-ub", 512),
    ("-no-kvu",),
    ("-kvu", "--cache-reuse", 64),
)
QUICKEST = SWEEP[2]
"""By the sweep of docs/benchmarks.md."""
ROTATION_CTX = 4096
ROTATION_RAM_MIB = 1024
ROTATION_CONVERSATIONS, ROTATION_TURNS = 64, 4
ROTATION_WORDS = 12
NUM_ARRIVALS = 6
PICTURE = ROOT / "docs" / "ttft.png"

Server = Callable[[], AbstractAsyncContextManager[Peer]]


@dataclass
class Measured:
    """What a load came to."""

    wall: float
    turns: list[list[Asked]]
    """By turn, over the conversations."""

    @property
    def worst_gap(self) -> float:
        return max(one.worst_gap for turn in self.turns for one in turn)

    @property
    def num_computed(self) -> int:
        return sum(one.num_computed for turn in self.turns for one in turn)

    def ttft(self, first: int = 0) -> float:
        """The median from the turn `first` on."""
        return statistics.median(one.ttft for turn in self.turns[first:] for one in turn)

    def __str__(self) -> str:
        by_turn = " / ".join(f"{statistics.median(one.ttft for one in turn):.1f}" for turn in self.turns)
        worst = max(one.ttft for turn in self.turns for one in turn)
        return (
            f"{self.wall:.1f} s, TTFT by turn {by_turn} s, worst {worst:.1f} s, longest gap {self.worst_gap:.2f} s, "
            f"{self.num_computed} prompt tokens computed"
        )


def turnpike(*flags: str | int, model_file: Path | None = None) -> Server:
    @asynccontextmanager
    async def serve() -> AsyncIterator[Peer]:
        common = ("--threads", CORES, "--num-slots", NUM_SLOTS, "--coalesce-seconds", 0)
        async with system(*common, *flags, model_file=model_file) as here:
            yield Turnpike(here)

    return serve


def tuned(*flags: str | int, model_file: Path | None = None) -> Server:
    @asynccontextmanager
    async def serve() -> AsyncIterator[Peer]:
        async with llama_server("-t", CORES, "-np", NUM_SLOTS, *flags, model_file=model_file) as server:
            yield server

    return serve


async def measure(
    server: Server,
    conversations: Sequence[Conversation],
    *,
    num_turns: int,
    num_tokens: int,
    own_answers: bool = False,
    in_rotation: bool = False,
) -> Measured:
    """Eight at once. Each conversation goes on as soon as it is answered, or, in rotation, when all others were."""
    turns: list[list[Asked]] = [[] for _ in range(num_turns)]
    histories: list[list[Message]] = [[] for _ in conversations]
    at_once = asyncio.Semaphore(NUM_SLOTS)

    async with server() as peer:
        await peer.ask("warm", [Message("user", "radio node alarm")], 4)

        async def turn(index: int, number: int) -> None:
            conversation, history = conversations[index], histories[index]
            history.append(conversation.messages[2 * number])
            asked = await peer.ask(f"c{index}", history, num_tokens)
            turns[number].append(asked)
            if own_answers:
                history.append(Message("assistant", asked.text))
            elif number + 1 < num_turns:
                history.append(conversation.messages[2 * number + 1])

        async def whole(index: int) -> None:
            async with at_once:
                for number in range(num_turns):
                    await turn(index, number)

        async def one(index: int, number: int) -> None:
            async with at_once:
                await turn(index, number)

        started = time.perf_counter()
        if in_rotation:
            for number in range(num_turns):
                await asyncio.gather(*(one(index, number) for index in range(len(conversations))))
        else:
            await asyncio.gather(*(whole(index) for index in range(len(conversations))))
        return Measured(time.perf_counter() - started, turns)


def chatting() -> list[Weights]:
    """The models that both servers make the same prompts for: those whose file has a chat template."""
    return [one for one in all_weights() if "tokenizer.chat_template" in read_header(one.file).values]


def texts(num: int, model_file: Path | None = None) -> list[Conversation]:
    vocabulary = LlamaModel(model_file or model(), vocab_only=True).vocabulary

    def num_tokens(one: Conversation) -> int:
        text = "\n".join(message.content for message in one.messages[:5])
        return len(vocabulary.tokenize(text, template_spans=[], add_bos=False))

    found = [
        one
        for one in load_conversations(os.environ.get("DATASET"), min_turns=5)
        if num_tokens(one) <= MAX_HISTORY_TOKENS
    ]
    assert len(found) >= num, f"{len(found)} conversations of three turns are short enough, {num} are wanted"
    return found[:num]


def rotating() -> list[Conversation]:
    """Of the beginnings of the shipped set's messages; no two conversations begin alike."""

    def beginnings(role: str) -> list[str]:
        messages = (one for each in load_conversations(None) for one in each.messages)
        return [" ".join(one.content.split()[:ROTATION_WORDS]) for one in messages if one.role == role]

    users, answers = beginnings("user"), beginnings("assistant")
    found = []
    for number in range(ROTATION_CONVERSATIONS):
        messages = []
        for turn in range(ROTATION_TURNS):
            place = number * 7 + turn * 31
            messages.append(Message("user", f"Case {number}, {turn}: {users[place % len(users)]}"))
            messages.append(Message("assistant", answers[place % len(answers)]))
        found.append(Conversation(f"r{number}", tuple(messages)))
    return found


async def sweep() -> tuple[str | int, ...]:
    """llama-server's quickest setting for the first load, tried on a part of it."""
    walls: dict[tuple[str | int, ...], float] = {}
    for flags in SWEEP:
        found = await measure(tuned("-c", NUM_CTX, *flags), texts(8), num_turns=2, num_tokens=32)
        walls[flags] = found.wall
        print(f"llama-server -c {NUM_CTX} -np {NUM_SLOTS} {' '.join(map(str, flags))}: {found}", flush=True)
    return min(walls, key=lambda flags: walls[flags])


async def saturated(flags: tuple[str | int, ...]) -> list[Row]:
    rows: list[Row] = []
    for weights in chatting():
        rows += await saturated_with(weights, flags)
    return rows


async def saturated_with(weights: Weights, flags: tuple[str | int, ...]) -> list[Row]:
    load = texts(16, weights.file)
    servers = (
        turnpike("--num-ctx", NUM_CTX, model_file=weights.file),
        tuned("-c", NUM_CTX, *flags, model_file=weights.file),
    )
    ours, theirs = [await measure(server, load, num_turns=3, num_tokens=64) for server in servers]
    print(weights.of("ours"), ours, "\nllama-server:", theirs, flush=True)
    draw(ours, theirs, weights)

    def row(name: str, one: float, other: float, target: float) -> Row:
        name = weights.of(f"16 conversations × 3 turns: {name}")
        return Row(name, f"{one:.2f} s", f"{other:.2f} s", one / other, target, True)

    return [
        row("wall", ours.wall, theirs.wall, 1.05),
        row("longest gap", ours.worst_gap, theirs.worst_gap, 0.1),
        row("median TTFT", ours.ttft(), theirs.ttft(), 0.8),
    ]


async def own_answers(flags: tuple[str | int, ...]) -> list[Row]:
    rows: list[Row] = []
    # Random weights answer in tokens that no tokenizer makes of their text again.
    for weights in (Weights(write_padded(PADDED)), *(one for one in chatting() if one.name is not None)):
        rows += await own_answers_of(weights, flags)
    return rows


async def own_answers_of(weights: Weights, flags: tuple[str | int, ...]) -> list[Row]:
    load = texts(16)
    found = [
        await measure(server, load, num_turns=3, num_tokens=64, own_answers=True)
        for server in (
            turnpike("--num-ctx", NUM_CTX, model_file=weights.file),
            tuned("-c", NUM_CTX, *flags, model_file=weights.file),
        )
    ]
    ours, theirs = found
    print(weights.of("own answers"), "ours:", ours, "\nllama-server:", theirs, flush=True)
    name = "the same with the model's own answers: "
    return [
        Row(
            weights.of(name + "prompt tokens computed"),
            str(ours.num_computed),
            str(theirs.num_computed),
            ours.num_computed / theirs.num_computed,
            1.0,
            True,
        ),
        Row(
            weights.of(name + "wall"), f"{ours.wall:.1f} s", f"{theirs.wall:.1f} s", ours.wall / theirs.wall, 0.95, True
        ),
    ]


async def rotation(flags: tuple[str | int, ...]) -> list[Row]:
    load = rotating()
    servers = (
        turnpike("--num-ctx", ROTATION_CTX, "--park-bytes", ROTATION_RAM_MIB << 20),
        tuned("-c", ROTATION_CTX, "--cache-ram", ROTATION_RAM_MIB, *flags),
    )
    ours, theirs = [
        await measure(server, load, num_turns=ROTATION_TURNS, num_tokens=8, in_rotation=True) for server in servers
    ]
    print("rotation, ours:", ours, "\nllama-server:", theirs, flush=True)
    name = f"{ROTATION_CONVERSATIONS} in rotation over {NUM_SLOTS} slots: median TTFT of turns 2 to {ROTATION_TURNS}"
    one, other = ours.ttft(1), theirs.ttft(1)
    return [Row(name, f"{one:.2f} s", f"{other:.2f} s", one / other, 0.7, True)]


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


async def priorities(flags: tuple[str | int, ...]) -> list[Row]:
    medians = []
    for server in (turnpike("--num-ctx", NUM_CTX), tuned("-c", NUM_CTX, *flags)):
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


async def tuned_flags(*, anew: bool = False) -> tuple[str | int, ...]:
    """llama-server's quickest setting here: of a sweep now, else of the last one, else of docs/benchmarks.md."""
    kept = ROOT / ".cache" / "llama_server_flags.json"
    if anew:
        kept.write_text(json.dumps(await sweep()))
    flags: tuple[str | int, ...] = tuple(json.loads(kept.read_text())) if kept.exists() else QUICKEST
    print("llama-server runs with", *flags, flush=True)
    return flags


async def measure_all(wanted: Sequence[str]) -> list[Row]:
    model()
    flags = await tuned_flags(anew="sweep" in wanted)
    questions: dict[str, Callable[[tuple[str | int, ...]], Awaitable[list[Row]]]] = {
        "saturated": saturated,
        "own_answers": own_answers,
        "rotation": rotation,
        "priorities": priorities,
    }
    rows: list[Row] = []
    for name, question in questions.items():
        if name in wanted or not wanted:
            rows += await question(flags)
    return rows


def main() -> None:
    """`python -m benchmarks.conversations [sweep] [saturated] [own_answers] [rotation] [priorities]`"""
    show("conversations that go on, against llama-server", asyncio.run(measure_all(sys.argv[1:])))


if __name__ == "__main__":
    main()
