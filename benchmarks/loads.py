"""Conversations that go on, for ours and for llama-server alike: which, how they are asked, what came of them."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import CORES, ROOT, Row, Weights, all_weights, gateway, model, system
from benchmarks.peers import Asked, OverHttp, Peer, Turnpike, http_client, llama_server
from broker.messages import Message
from broker.process import spawn, terminate
from producers.data.datasets import Conversation, load_conversations
from tests.conftest import SHARED
from workers.gguf_header import read_header
from workers.llama.context import LlamaModel

NUM_CTX = 16384
NUM_SLOTS = 8
MAX_HISTORY_TOKENS = 1600
"""Of a conversation's first five messages: TinyLlama's context is 2,048 tokens."""
NUM_ROUNDS = 3
SWEEP: tuple[tuple[str | int, ...], ...] = (
    ("-kvu",),
    ("-kvu", "-ub", 256),
    ("-kvu", "-b", 512, "-ub", 512),
    ("-no-kvu",),
    ("-kvu", "--cache-reuse", 64),
)
QUICKEST = SWEEP[2]
"""By the sweep of docs/benchmarks.md."""
ROTATION_CONVERSATIONS, ROTATION_TURNS = 64, 4
ROTATION_WORDS = 12

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

    @property
    def worst_ttft(self) -> float:
        return max(one.ttft for turn in self.turns for one in turn)

    def ttft(self, first: int = 0) -> float:
        """The median from the turn `first` on."""
        return statistics.median(one.ttft for turn in self.turns[first:] for one in turn)

    def __str__(self) -> str:
        by_turn = " / ".join(f"{statistics.median(one.ttft for one in turn):.2f}" for turn in self.turns)
        return (
            f"{self.wall:.1f} s, TTFT {self.ttft():.2f} s, by turn {by_turn} s, worst {self.worst_ttft:.1f} s, "
            f"longest gap {self.worst_gap:.2f} s, {self.num_computed} prompt tokens computed"
        )


# --- Who is asked ---


def turnpike(*flags: str | int, model_file: Path | None = None) -> Server:
    """Ours by our own client."""

    @asynccontextmanager
    async def serve() -> AsyncIterator[Peer]:
        common = ("--num-slots", NUM_SLOTS, "--coalesce-seconds", 0)
        async with system(*common, *flags, model_file=model_file) as here:
            yield Turnpike(here)

    return serve


def through_gateway(*flags: str | int, model_file: Path | None = None, log: Path | None = None) -> Server:
    """Ours over HTTP."""

    @asynccontextmanager
    async def serve() -> AsyncIterator[Peer]:
        common = ("--num-slots", NUM_SLOTS, "--coalesce-seconds", 0)
        async with (
            system(*common, *flags, model_file=model_file, log=log) as here,
            gateway(here.server) as (url, _),
            http_client(url) as client,
        ):
            yield OverHttp(client)

    return serve


def tuned(*flags: str | int, model_file: Path | None = None, patched: bool = False, log: Path | None = None) -> Server:
    """llama-server; the `patched` one has our attention."""

    @asynccontextmanager
    async def serve() -> AsyncIterator[Peer]:
        common = ("-t", CORES, "-np", NUM_SLOTS)
        async with llama_server(*common, *flags, model_file=model_file, patched=patched, log=log) as server:
            yield server

    return serve


async def sweep() -> tuple[str | int, ...]:
    """llama-server's quickest setting for the first load, tried on a part of it."""
    walls: dict[tuple[str | int, ...], float] = {}
    for flags in SWEEP:
        found = await measure(tuned("-c", NUM_CTX, *flags), texts(8), num_turns=2, num_tokens=32)
        walls[flags] = found.wall
        print(f"llama-server -c {NUM_CTX} -np {NUM_SLOTS} {' '.join(map(str, flags))}: {found}", flush=True)
    return min(walls, key=lambda flags: walls[flags])


async def tuned_flags(*, anew: bool = False) -> tuple[str | int, ...]:
    """llama-server's quickest setting here: of a sweep now, else of the last one, else of docs/benchmarks.md."""
    kept = ROOT / ".cache" / "llama_server_flags.json"
    if anew:
        kept.write_text(json.dumps(await sweep()))
    flags: tuple[str | int, ...] = tuple(json.loads(kept.read_text())) if kept.exists() else QUICKEST
    print("llama-server runs with", *flags, flush=True)
    return flags


# --- What is asked ---


def chatting() -> list[Weights]:
    """The models that both servers make the same prompts for: those whose file has a chat template."""
    return [one for one in all_weights() if "tokenizer.chat_template" in read_header(one.file).values]


def texts(num: int, model_file: Path | None = None) -> list[Conversation]:
    """OpenAssistant's threads of the file DATASET, or of the one beside the checkout; else of the shipped set."""
    vocabulary = LlamaModel(model_file or model(), vocab_only=True).vocabulary
    trees = SHARED / "oasst_en_trees.jsonl"

    def num_tokens(one: Conversation) -> int:
        text = "\n".join(message.content for message in one.messages[:5])
        return len(vocabulary.tokenize(text, template_spans=[], add_bos=False))

    found = [
        one
        for one in load_conversations(os.environ.get("DATASET") or (trees if trees.exists() else None), min_turns=5)
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


# --- How it goes ---


@asynccontextmanager
async def busy_core() -> AsyncIterator[None]:
    """A process that keeps the first core busy meanwhile."""
    core = min(os.sched_getaffinity(0))
    neighbour = await spawn([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"])
    try:
        yield
    finally:
        await terminate(neighbour)


async def measure(
    server: Server,
    conversations: Sequence[Conversation],
    *,
    num_turns: int,
    num_tokens: int,
    own_answers: bool = False,
    in_rotation: bool = False,
    beside: Callable[[], AbstractAsyncContextManager[object]] | None = None,
) -> Measured:
    """Eight at once, beside something that is there meanwhile. Each conversation goes on as soon as it is answered, or,
    in rotation, when all others were."""
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

        async def all_of_them() -> float:
            started = time.perf_counter()
            if in_rotation:
                for number in range(num_turns):
                    await asyncio.gather(*(one(index, number) for index in range(len(conversations))))
            else:
                await asyncio.gather(*(whole(index) for index in range(len(conversations))))
            return time.perf_counter() - started

        if beside is None:
            return Measured(await all_of_them(), turns)
        async with beside():
            return Measured(await all_of_them(), turns)


async def mirrored[T](num_rounds: int, contestants: Mapping[str, Callable[[], Awaitable[T]]]) -> dict[str, list[T]]:
    """What each came to in each round: in order, then the other way round, so that neither has the quieter half. Each
    is told as it comes."""
    names = list(contestants)
    found: dict[str, list[T]] = {name: [] for name in names}
    for number in range(num_rounds):
        for name in reversed(names) if number % 2 else names:
            found[name].append(await contestants[name]())
            print(f"round {number + 1}, {name}: {found[name][-1]}", flush=True)
    return found


def compared(
    question: str, ours: Sequence[Measured], theirs: Sequence[Measured], targets: Mapping[str, float]
) -> list[Row]:
    """A row for each figure that has a target, of the medians over the rounds."""
    figures: dict[str, Callable[[Measured], float]] = {
        "wall": lambda one: one.wall,
        "median TTFT": lambda one: one.ttft(),
        "median TTFT of later turns": lambda one: one.ttft(1),
        "worst TTFT": lambda one: one.worst_ttft,
        "longest gap": lambda one: one.worst_gap,
        "prompt tokens computed": lambda one: one.num_computed,
    }
    rows = []
    for name, target in targets.items():
        mine, other = (statistics.median(map(figures[name], each)) for each in (ours, theirs))
        unit = "" if name == "prompt tokens computed" else " s"
        rows.append(Row(f"{question}: {name}", f"{mine:.2f}{unit}", f"{other:.2f}{unit}", mine / other, target, True))
    return rows
