"""Reproduces the model card's figures from the shipped file, through Turnpike's own scoring and generation.

    .venv/bin/python tools/demo_model/evaluate.py [--model-file FILE] [--count N] [--json]

Server and worker are the real ones; the worker runs in its deterministic mode, so two runs print the same. Each figure
is given for two splits: `fillings`, training's templates with values that it never had, and `templates`, wordings that
it never had, with such values.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import re
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import corpus
from broker.client import Client
from broker.messages import Done, Message, Sampling
from grammar import Split
from producers.local_system import local_system
from workers.models import DEMO

ROOT = Path(__file__).parents[2]
SPLITS: tuple[Split, ...] = ("fillings", "templates")
DISTANCES = (1, 2, 4)
MODEL = "demo"
SEED = 20_000
CONCURRENCY = 8
MAX_TOKENS = 64
NUM_WELL_FORMED = 200
"""Prompts at most, of both splits."""
_SENTENCE = re.compile(r"[A-Z0-9][^.?!]*[.?!]( [A-Z0-9][^.?!]*[.?!])*")
_WORD = re.compile(r"[A-Za-z0-9:'-]+")


async def each[T, R](items: Iterable[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """The work's results in the items' order, CONCURRENCY at a time."""
    gate = asyncio.Semaphore(CONCURRENCY)

    async def one(item: T) -> R:
        async with gate:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))


def messages_of(dialogue: list[corpus.Message]) -> list[Message]:
    return [Message(role, text) for role, text in dialogue]  # type: ignore[arg-type]


class Evaluation:
    """The questions, each with a number of cases per split."""

    def __init__(self, client: Client, count: int) -> None:
        self._client = client
        self._count = count

    async def _answer(self, messages: list[Message], sampling: Sampling | None = None) -> Done:
        return await self._client.ask(MODEL, messages, sampling=sampling or Sampling(max_tokens=MAX_TOKENS))

    async def _scores(self, messages: list[Message], continuations: tuple[str, ...]) -> Done:
        return await self._client.ask(MODEL, messages, kind="score", continuations=continuations)

    async def perplexity(self, split: Split) -> dict[str, float]:
        """exp of the mean negative log-likelihood of the assistant's words, given what comes before them."""
        cases = [
            (dialogue[:at], dialogue[at][1])
            for dialogue in islice(corpus.dialogues(split, SEED), self._count // 2)
            for at in range(len(dialogue))
            if dialogue[at][0] == "assistant"
        ]
        ends = await each(cases, lambda case: self._scores(messages_of(case[0]), (case[1],)))
        nats = -sum(end.scores[0].logprob for end in ends)
        num_tokens = sum(end.scores[0].num_tokens for end in ends)
        num_bytes = sum(len(text.encode()) for _, text in cases)
        return {"by token": math.exp(nats / num_tokens), "by byte": math.exp(nats / num_bytes), "tokens": num_tokens}

    async def recall(self, split: Split, distance: int) -> float:
        """The share of exact answers; the history holds the model's own answers, as in a real conversation."""
        rng = random.Random(f"recall {split} {distance} {SEED}")
        probes = [corpus.recall_probe(rng, split, distance) for _ in range(self._count)]

        async def asked(probe: corpus.Probe) -> bool:
            history: list[Message] = []
            text = ""
            for role, content in probe.messages:
                if role == "assistant":
                    history.append(Message("assistant", text))
                else:
                    history.append(Message(role, content))  # type: ignore[arg-type]
                    text = (await self._answer(history)).text if role == "user" else ""
            return text in probe.answers

        return statistics.mean(await each(probes, asked))

    async def arithmetic(self, split: Split) -> float:
        rng = random.Random(f"arithmetic {split} {SEED}")
        probes = [corpus.arithmetic_probe(rng, split) for _ in range(self._count)]

        async def asked(probe: corpus.Probe) -> bool:
            return (await self._answer(messages_of(probe.messages))).text in probe.answers

        return statistics.mean(await each(probes, asked))

    async def schemas(self, split: Split) -> dict[str, float]:
        """Of both sentences of each pair: is the right candidate the likelier answer? The error is that of pairs."""
        rng = random.Random(f"schema {split} {SEED}")
        pairs = [corpus.schema_pair(rng, split) for _ in range(self._count)]

        async def right(pair: corpus.SchemaPair) -> float:
            ends = [
                await self._scores([Message("user", prompt)], candidates)
                for prompt, candidates in zip(pair.prompts, pair.candidates, strict=True)
            ]
            margins = [end.scores[0].logprob - end.scores[1].logprob for end in ends]
            return ((margins[0] > 0) + (margins[1] < 0)) / 2

        shares = await each(pairs, right)
        error = statistics.stdev(shares) / math.sqrt(len(shares))
        return {"accuracy": statistics.mean(shares), "standard error": error, "pairs": len(pairs)}

    async def well_formed(self, temperature: float) -> float:
        """The share of answers that pass `is_well_formed`, half of the prompts from each split."""
        known = vocabulary()
        prompts: list[list[Message]] = []
        for split in SPLITS:
            rng = random.Random(f"well formed {split} {SEED}")
            for dialogue in islice(corpus.dialogues(split, SEED + 1), min(NUM_WELL_FORMED, self._count) // 2):
                turns = [at for at, (role, _) in enumerate(dialogue) if role == "user"]
                prompts.append(messages_of(dialogue[: rng.choice(turns) + 1]))
        sampling = Sampling(max_tokens=MAX_TOKENS, temperature=temperature, seed=SEED)

        async def asked(messages: list[Message]) -> bool:
            done = await self._answer(messages, sampling)
            heard = known | {word.lower() for message in messages for word in _WORD.findall(message.content)}
            return done.finish_reason == "stop" and is_well_formed(done.text, heard)

        return statistics.mean(await each(prompts, asked))

    async def speed(self) -> dict[str, float]:
        """Tokens per second of one conversation, the median of ten."""
        sampling = Sampling(max_tokens=200, ignore_eos=True)
        found = [await self._answer([Message("user", f"Node {n} shows high load.")], sampling) for n in range(10)]
        return {"decode tokens/s": statistics.median(199 / done.timings.decode for done in found)}


def is_well_formed(text: str, known: set[str]) -> bool:
    """Whole sentences, each from a capital or a figure to its stop, of known words, none three times in a row."""
    words = [word.lower() for word in _WORD.findall(text)]
    stutters = any(one == two == three for one, two, three in zip(words, words[1:], words[2:], strict=False))
    return bool(_SENTENCE.fullmatch(text)) and not stutters and all(word in known for word in words)


def vocabulary() -> set[str]:
    """The words of the training corpus, coined names aside: those of 20,000 dialogues that occur ten times."""
    counts: dict[str, int] = {}
    for dialogue in islice(corpus.dialogues("train", SEED), 20_000):
        for _, text in dialogue:
            for word in _WORD.findall(text):
                counts[word.lower()] = counts.get(word.lower(), 0) + 1
    return {word for word, count in counts.items() if count >= 10}


@asynccontextmanager
async def served(model_file: Path | None) -> AsyncIterator[Client]:
    with tempfile.TemporaryDirectory(prefix="turnpike-evaluate-") as folder:
        async with local_system(
            ROOT / "turnpike", Path(folder), model=MODEL, model_file=model_file, flags=("--deterministic",)
        ) as system:
            yield system.client


async def evaluate(model_file: Path | None, count: int) -> dict[str, object]:
    found: dict[str, object] = {}

    def note(name: str, value: object) -> None:
        found[name] = value
        print(f"{name}: {value}", file=sys.stderr, flush=True)

    total, held_out = corpus.num_templates()
    note("templates", {"all": total, "held out": held_out})
    note("file", {"bytes": (model_file or DEMO.path).stat().st_size, "cases": count})
    async with served(model_file) as client:
        evaluation = Evaluation(client, count)
        for split in SPLITS:
            note(f"perplexity, {split}", await evaluation.perplexity(split))
            for distance in DISTANCES:
                note(f"recall after {distance}, {split}", await evaluation.recall(split, distance))
            note(f"arithmetic, {split}", await evaluation.arithmetic(split))
            note(f"schema pairs, {split}", await evaluation.schemas(split))
        for temperature in (0.0, 0.7):
            note(f"well formed at temperature {temperature}", await evaluation.well_formed(temperature))
        note("speed", await evaluation.speed())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="reproduces the demo model's card")
    parser.add_argument("--model-file", type=Path, help="default: the shipped file")
    parser.add_argument("--count", type=int, default=400, help="cases of each question and split (default 400)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on standard output")
    options = parser.parse_args()
    found = asyncio.run(evaluate(options.model_file, options.count))
    if options.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
