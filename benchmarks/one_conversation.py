"""How quickly does one conversation decode, alone, where answers repeat their prompts and where they do not?

OpenAssistant's turns with the model's own answers, and the thirty shipped tasks whose answers repeat text of their
prompts, one after the other: ours through the whole system, llama-server with its defaults for one, and llama-bench at
the depth of the answers, in rounds of mirrored order. A rate is of decoding: tokens behind the first ÷ the time since.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.harness import CORES, Row, Weights, all_weights, llama_bench, show, system
from benchmarks.loads import NUM_ROUNDS, Server, mirrored, texts
from benchmarks.peers import Asked, Peer, Turnpike, llama_server
from broker.messages import Message
from producers.data.datasets import Conversation, load_conversations

NUM_CONVERSATIONS, NUM_TURNS = 6, 2
NUM_TOKENS = 128
"""Of an answer, at most."""
NUM_BENCH_TOKENS = 64
NUM_CTX = 4096
OURS, SERVER, BENCH = "ours", "llama-server", "llama-bench"
TARGETS = {"OpenAssistant's turns": 1.05, "tasks that repeat their prompts": 1.5}
"""Of what llama-bench decodes."""


@dataclass(frozen=True)
class Decoded:
    """What some answers came to, one after the other."""

    answers: tuple[Asked, ...]

    @property
    def rate(self) -> float:
        """Tokens a second, without the first ones."""
        return sum(one.num_generated - 1 for one in self.answers) / sum(one.seconds for one in self.answers)

    @property
    def depth(self) -> int:
        """Tokens before the middle of an answer, on average."""
        return round(statistics.mean(one.num_prompt + one.num_generated / 2 for one in self.answers))

    def __str__(self) -> str:
        num = sum(one.num_generated for one in self.answers)
        return f"{self.rate:.2f} tokens/s, {num} tokens in {len(self.answers)} answers, depth {self.depth}"


@dataclass(frozen=True)
class Benched:
    """What llama-bench says."""

    rate: float

    def __str__(self) -> str:
        return f"{self.rate:.2f} tokens/s"


def ours(model_file: Path, *flags: str) -> Server:
    @asynccontextmanager
    async def serve() -> AsyncIterator[Peer]:
        common = ("--threads", CORES, "--num-ctx", NUM_CTX)
        async with system(*common, *flags, model_file=model_file) as here:
            yield Turnpike(here)

    return serve


def theirs(model_file: Path) -> Server:
    @asynccontextmanager
    async def serve() -> AsyncIterator[Peer]:
        async with llama_server("-t", CORES, "-c", NUM_CTX, "-np", 1, model_file=model_file) as server:
            yield server

    return serve


async def decoded(
    server: Server, conversations: Sequence[Conversation], num_turns: int, num_tokens: int, *, ignore_eos: bool
) -> Decoded:
    """Each conversation's turns, with the model's own answers; answers of less than two tokens do not count."""
    found: list[Asked] = []
    async with server() as peer:
        await peer.ask("warm", [Message("user", "radio node alarm")], 8)
        for number, conversation in enumerate(conversations):
            history: list[Message] = []
            for message in [one for one in conversation.messages if one.role == "user"][:num_turns]:
                history.append(message)
                asked = await peer.ask(f"c{number}", history, num_tokens, ignore_eos=ignore_eos)
                history.append(Message("assistant", asked.text))
                found.append(asked)
    return Decoded(tuple(one for one in found if one.num_generated > 1))


async def rows(weights: Weights, options: argparse.Namespace) -> list[Row]:
    loads: dict[str, tuple[Sequence[Conversation], int]] = {
        "OpenAssistant's turns": (texts(NUM_CONVERSATIONS, weights.file), NUM_TURNS),
        "tasks that repeat their prompts": (load_conversations("editing")[:: max(1, 30 // options.tasks)], 1),
    }
    found: list[Row] = []
    for name, (conversations, num_turns) in loads.items():
        print(weights.of(name), flush=True)
        ask = partial(
            decoded,
            conversations=conversations,
            num_turns=num_turns,
            num_tokens=options.tokens,
            ignore_eos=weights.name is None,  # random weights would end anywhere
        )
        rounds = await of_all(weights, options, ask)
        rate, server, bench = (statistics.median(one.rate for one in rounds[who]) for who in (OURS, SERVER, BENCH))
        for peer, other, target in ((BENCH, bench, TARGETS[name]), (SERVER, server, 0.0)):
            question = weights.of(f"decode of one conversation, {name} ÷ {peer}")
            found.append(Row(question, f"{rate:.1f}/s", f"{other:.1f}/s", rate / other, target))
    return found


async def of_all(
    weights: Weights, options: argparse.Namespace, ask: Callable[[Server], Awaitable[Decoded]]
) -> Mapping[str, Sequence[Decoded | Benched]]:
    """Each round's of each; llama-bench is asked at the depth that the others' answers had."""
    depths: list[int] = []

    async def answers(server: Server) -> Decoded:
        one = await ask(server)
        depths.append(one.depth)
        return one

    async def bench() -> Benched:
        bench = partial(llama_bench, threads=CORES, generate=NUM_BENCH_TOKENS, model_file=weights.file)
        return Benched(await asyncio.to_thread(bench, depth=depths[0]))

    contestants: dict[str, Callable[[], Awaitable[Decoded | Benched]]] = {
        OURS: lambda: answers(ours(weights.file, *options.worker_flags)),
        SERVER: lambda: answers(theirs(weights.file)),
        BENCH: bench,
    }
    return await mirrored(options.rounds, contestants)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_conversation", description=__doc__)
    parser.add_argument("--model-file", type=Path, nargs="+", default=[], help="instead of all models")
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="in mirrored order")
    parser.add_argument("--tasks", type=int, default=30, help="how many of the thirty")
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS, help="of an answer, at most")
    parser.add_argument("worker_flags", nargs="*", help="behind --: for `turnpike worker`")
    options = parser.parse_args()
    found: list[Row] = []
    for weights in [Weights(one, one.stem) for one in options.model_file] or all_weights():
        found += asyncio.run(rows(weights, options))
    show("one conversation alone", found)


if __name__ == "__main__":
    main()
