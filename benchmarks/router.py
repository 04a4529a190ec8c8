"""Several models and room for one: a board beside llama-server's router (`--models-dir`, `--models-max 1`).

The same GGUF files, and the same turns at the same times from a seed: five for three models at once (A B A A C), then
turns at random, then a burst; both servers over HTTP, by one client. A conversation begins with a text of some 300
tokens, and two turns in three go on with one, up to four times: with the model's own answers, and often over a swap.
How soon does the first token come, on average and at p95, and how often is a model loaded for that?

Both hold one model at a time, the board by its memory, and start warm: files are in the page cache, and each model has
been asked once, so that the board has verified its files and measured its machine. That is counted by neither. The
board keeps a worker without a model ready (`--spare`) and lets a model go that has been there for as long as its load
took (`--min-stay-seconds 0`): the router lets it go at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from benchmarks.harness import CORES, Row, board, gateway, show, tool
from benchmarks.loads import QUICKEST, mirrored
from benchmarks.peers import Asked, OverHttp, http_client, until_healthy
from benchmarks.resident import REAL_MODELS, real_models
from broker.messages import Message
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from producers.data.datasets import load_conversations
from tests.support import free_port, lock_files
from workers.boards.offers import Offer, Offers
from workers.boards.settings import BoardSettings
from workers.boards.spare import SPARE_BYTES

NUM_CTX, NUM_SLOTS = 8192, 8
MIB = 2**20
SLACK_BYTES = 192 * MIB
"""Of the board's memory, beside its largest model: for conversations of those that are not loaded, for one."""
NUM_BURST = 8
CONTINUED = 2 / 3
FIRST_CHARS = 1200
"""Of what a conversation begins with."""
LENGTHS = 32, 48, 64
"""Tokens of answers."""
MAX_TURNS = 4
"""Of a conversation."""
OURS, THEIRS = "a board", "llama-server's router"


# --- Which files ---


def real_files() -> dict[str, Path]:
    """By a name that both servers take; the smallest first."""
    found = {name.replace(".", "_"): file for name, file in real_models().items()}
    assert len(found) > 1, f"fewer than two real models in {REAL_MODELS}: `make real-models` fetches them"
    return dict(sorted(found.items(), key=lambda one: one[1].stat().st_size))


# --- What is asked, and when ---


@dataclass(frozen=True)
class Arrival:
    """A turn: when it comes, in seconds, of which conversation, and how many tokens are wanted."""

    at: float
    model: str
    conversation: int
    num_tokens: int


def arrivals(models: Sequence[str], chance: random.Random, *, num_random: int, mean_seconds: float) -> list[Arrival]:
    """The trace. The random part begins when the first five are about done, and so does the burst behind it."""
    a, b, c = models[0], models[1 % len(models)], models[2 % len(models)]
    found = [Arrival(0.2 * number, model, number, 48) for number, model in enumerate((a, b, a, a, c))]
    last: dict[str, list[int]] = {model: [] for model in models}
    turns: dict[int, int] = {}
    at = 15.0
    for number in range(5, 5 + num_random + NUM_BURST):
        is_burst = number >= 5 + num_random
        at += 0.05 if is_burst else chance.expovariate(1 / mean_seconds)
        model = chance.choice(models)
        known = [one for one in last[model] if turns[one] < MAX_TURNS]
        conversation = number
        if known and chance.random() < CONTINUED:
            conversation = chance.choice(known)
        else:
            last[model].append(number)
        turns[conversation] = turns.get(conversation, 0) + 1
        found.append(Arrival(at, model, conversation, chance.choice(LENGTHS)))
    return found


@dataclass(frozen=True)
class Texts:
    """Of the shipped conversations."""

    firsts: list[str]
    """What has been said, for some length, with a question behind it."""
    nexts: list[str]
    """What users ask then."""

    @classmethod
    def shipped(cls, chance: random.Random) -> Texts:
        """In another order."""
        each = [message for one in load_conversations(None) for message in one.messages]
        chance.shuffle(each)
        firsts, text = [], ""
        for message in each:
            text = f"{text}\n{message.content}"
            if len(text) >= FIRST_CHARS:
                firsts.append(f"{text}\nWhat is the most important of that?")
                text = ""
        return cls(firsts, [message.content for message in each if message.role == "user"])

    def of(self, conversation: int, turn: int) -> str:
        """What is said in a conversation's turn."""
        texts = self.nexts if turn else self.firsts
        return f"Case {conversation}. {texts[(conversation * 7 + turn) % len(texts)]}"


@dataclass(frozen=True)
class Served:
    """What a trace came to."""

    asked: list[Asked]
    wall: float
    num_loads: int

    @property
    def ttfts(self) -> list[float]:
        return sorted(one.ttft for one in self.asked)

    @property
    def mean(self) -> float:
        return statistics.mean(self.ttfts)

    @property
    def p95(self) -> float:
        return statistics.quantiles(self.ttfts, n=20, method="inclusive")[-1]

    def __str__(self) -> str:
        computed, prompt = (sum(getattr(one, name) for one in self.asked) for name in ("num_computed", "num_prompt"))
        return (
            f"TTFT mean {self.mean:.2f} s, median {statistics.median(self.ttfts):.2f} s, p95 {self.p95:.2f} s, "
            f"longest {self.ttfts[-1]:.2f} s; {self.num_loads} loads, {self.wall:.1f} s, "
            f"{computed:,} of {prompt:,} prompt tokens computed"
        )


@dataclass(frozen=True)
class Peer:
    """A server of several models."""

    http: httpx2.AsyncClient
    loads: Callable[[], int]
    """How many it has begun."""

    def of(self, model: str) -> OverHttp:
        return OverHttp(self.http, model)


Server = Callable[[], contextlib.AbstractAsyncContextManager[Peer]]


async def served(server: Server, trace: Sequence[Arrival], texts: Texts) -> Served:
    """Asks each model once, then the trace. Who goes on with a conversation waits for its last answer."""
    models = sorted({one.model for one in trace})
    histories: dict[int, list[Message]] = {}
    locks = {one.conversation: asyncio.Lock() for one in trace}
    async with server() as peer:
        for model in models:
            await peer.of(model).ask(f"warm-{model}", [Message("user", "radio node alarm")], 4)
        loads_before, started = peer.loads(), time.perf_counter()

        async def turn(one: Arrival) -> Asked:
            await asyncio.sleep(started + one.at - time.perf_counter())
            async with locks[one.conversation]:
                history = histories.setdefault(one.conversation, [])
                history.append(Message("user", texts.of(one.conversation, len(history) // 2)))
                asked = await peer.of(one.model).ask(f"c{one.conversation}", history, one.num_tokens)
                history.append(Message("assistant", asked.text))
                return asked

        asked = await asyncio.gather(*map(turn, trace))
        return Served(asked, time.perf_counter() - started, peer.loads() - loads_before)


# --- Who is asked ---


def end_of(log: Path) -> str:
    """What it said last."""
    return log.read_text(errors="replace")[-2000:]


def count_in(log: Path, words: str) -> Callable[[], int]:
    """How often they are in a log by now."""
    return lambda: log.read_text(errors="replace").count(words)


@asynccontextmanager
async def router(files: dict[str, Path], folder: Path) -> AsyncIterator[Peer]:
    """llama-server with the quickest setting of docs/benchmarks.md for each model."""
    models, log = folder / "router", folder / "router.log"
    models.mkdir(exist_ok=True)
    for name, file in files.items():
        with contextlib.suppress(FileExistsError):
            (models / f"{name}.gguf").symlink_to(file.resolve())
    port = free_port()
    command = [tool("llama-server"), "--models-dir", models, "--models-max", 1, "--port", port, "-fa", "on"]
    command += ["-t", CORES, "-np", NUM_SLOTS, "-c", NUM_CTX, *QUICKEST]
    with log.open("wb") as told:
        process = await spawn([*map(str, command)], stdout=told.fileno(), stderr=told.fileno())
        try:
            async with http_client(f"http://127.0.0.1:{port}") as http:
                await until_healthy(http, process, partial(end_of, log))
                yield Peer(http, count_in(log, "spawning server instance with name="))
        finally:
            await terminate(process)


def sized(files: dict[str, Path], folder: Path) -> list[str]:
    """The board's settings by which one model fits at a time, whichever it is."""
    lock_files(folder, files)

    def offers(park_bytes: int) -> dict[str, Offer]:
        lock, models = str(folder / "lock"), str(folder / "models")
        settings = BoardSettings(lock_file=lock, models_dir=models, num_ctx=NUM_CTX, park_bytes=park_bytes)
        return Offers(settings).look(1 << 50)

    smallest, second, *rest = sorted(one.planned_bytes for one in offers(0).values())
    largest = rest[-1] if rest else second
    park_bytes = max(64 * MIB, largest + SLACK_BYTES - smallest - second + MIB)
    memory_bytes = max(one.planned_bytes for one in offers(park_bytes).values()) + SLACK_BYTES + SPARE_BYTES
    flags = ["--park-bytes", park_bytes, "--memory-bytes", memory_bytes, "--num-ctx", NUM_CTX]
    flags += ["--lock-file", folder / "lock", "--models-dir", folder / "models", "--num-slots", NUM_SLOTS]
    return [*map(str, flags)]


@asynccontextmanager
async def turnpike(flags: Sequence[str], models: Sequence[str], folder: Path) -> AsyncIterator[Peer]:
    """A broker, a board and a gateway."""
    log = folder / "board.log"
    with TemporaryDirectory(prefix="turnpike-bench-") as name:
        async with EmbeddedServer(Path(name) / "server") as server:
            await server.ensure(list(models))
            async with board(server, Path(name), *flags, data=folder / "data", log=log) as process:
                try:
                    async with gateway(server) as (url, _), http_client(url) as http:
                        yield Peer(http, count_in(log, " loading model="))
                finally:
                    assert process.returncode is None, end_of(log)


# --- The question ---


async def measure(given: argparse.Namespace) -> list[Row]:
    files = {one.stem.replace(".", "_"): one for one in given.model_file} or real_files()
    texts = Texts.shipped(random.Random(given.seed))
    trace = arrivals([*files], random.Random(given.seed), num_random=given.turns, mean_seconds=given.mean_seconds)
    more = ["--min-stay-seconds", "0", *([] if given.no_spare else ["--spare"])]
    with TemporaryDirectory(prefix="turnpike-bench-") as name:
        folder = Path(name)
        flags = sized(files, folder)  # reads every file
        servers: dict[str, Server] = {
            OURS: partial(turnpike, [*flags, *more], [*files], folder),
            THEIRS: partial(router, files, folder),
        }
        contestants: dict[str, Callable[[], Awaitable[Served]]] = {
            who: partial(served, server, trace, texts) for who, server in servers.items()
        }
        found = await mirrored(given.rounds, contestants)
        if given.log is not None:
            given.log.write_text((folder / "board.log").read_text(errors="replace"))
    ours, theirs = found[OURS], found[THEIRS]
    what = f"{len(trace)} turns for {len(files)} models, room for one"
    rows = []
    for figure, target in (("mean", 0.7), ("p95", 0.7)):
        mine, other = ([getattr(one, figure) for one in each] for each in (ours, theirs))
        each = ", ".join(f"{one:.2f}" for one in mine), ", ".join(f"{one:.2f}" for one in other)
        result = statistics.median(mine) / statistics.median(other)
        question = f"{what}: {figure} time to first token"
        rows.append(Row(question, f"{each[0]} s", f"{each[1]} s", result, target, at_most=True))
    loads = [statistics.median(one.num_loads for one in each) for each in (ours, theirs)]
    rows.append(Row(f"{what}: loads", f"{loads[0]:.0f}", f"{loads[1]:.0f}", loads[0] / max(1, loads[1]), 1.0, True))
    walls = [statistics.median(one.wall for one in each) for each in (ours, theirs)]
    rows.append(Row(f"{what}: wall", f"{walls[0]:.1f} s", f"{walls[1]:.1f} s", walls[0] / walls[1], 1.0, True))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-file", type=Path, nargs="+", default=[], help="instead of all real models")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--turns", type=int, default=18, help="of the random part")
    parser.add_argument("--mean-seconds", type=float, default=4.0, help="between two of those")
    parser.add_argument("--seed", type=int, default=22)
    parser.add_argument("--no-spare", action="store_true", help="the board keeps no worker ready")
    parser.add_argument("--log", type=Path, help="a file for the log of the board's last round")
    show("many models, room for one", asyncio.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
