"""What do guesses gain where answers repeat their prompts, what do they cost where nothing repeats, and are the answers
the same?

Two workers of one model, one with `--speculation off`, asked one after the other in mirrored order (off, auto, auto,
off): tasks whose answers repeat text of the prompt, chats, and random text, by as many streams at once as asked for.
The rates are of decoding, from a turn's first token to its last. With `--draft-model FILE` the second worker has that
draft model; with `--beside off|auto` it is held against a worker with guesses by n-grams alone, or with none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import CORES, ROOT, Row, System, Weights, all_weights, show, system
from broker.messages import Done, Message, Sampling

STREAMS = (1, 2, 3, 4, 8)
ORDER = ("off", "auto", "auto", "off")
NUM_TOKENS = 160
TASKS = ROOT / "producers" / "data" / "editing.jsonl"
QUESTIONS = (
    "Why is the sky blue in the day and red in the evening?",
    "Tell a story of a lighthouse keeper who finds a letter.",
    "What should one look for when buying a used bicycle?",
    "How does a heat pump work?",
    "Describe a walk through a market in the morning.",
    "What speaks for and against living in a small town?",
    "How is cheese made?",
    "Explain to a child what a satellite does.",
)


@dataclass(frozen=True)
class Asked:
    """What is asked of a worker, and within which bound what comes of it has to be."""

    name: str
    turns: list[tuple[str | list[Message], Sampling]]
    least: dict[int, float]
    """The rate with guesses ÷ the one without, by streams."""


@dataclass(frozen=True)
class Round:
    """All turns of a kind, once."""

    rate: float
    """Tokens/s of all streams."""
    texts: tuple[str, ...]
    num_drafted: int
    num_accepted: int


def kinds(num_turns: int) -> list[Asked]:
    """The three, of so many turns each."""
    tasks = [json.loads(line) for line in TASKS.read_text().splitlines()]
    editing: list[tuple[str | list[Message], Sampling]] = [
        ([Message(**task["messages"][0])], Sampling(max_tokens=2 * NUM_TOKENS)) for task in tasks
    ]
    chats = [(text, Sampling(max_tokens=NUM_TOKENS, temperature=0.8, seed=7)) for text in QUESTIONS]
    noise = [(text, Sampling(max_tokens=NUM_TOKENS, temperature=2.5, seed=7, ignore_eos=True)) for text in QUESTIONS]
    never_less = dict.fromkeys(STREAMS, 0.98)
    return [
        Asked("repeats its prompt", editing[:num_turns], never_less | dict.fromkeys((1, 2, 3, 4), 1.1)),
        Asked("chat", [*chats], never_less),
        Asked("never repeats", [*noise], never_less),
    ]


async def measured(running: System, turns: Iterable[tuple[str | list[Message], Sampling]], num_streams: int) -> Round:
    """All turns, so many at once."""
    places = asyncio.Semaphore(num_streams)

    async def asked(messages: str | list[Message], sampling: Sampling) -> Done:
        async with places:
            answer = running.client.ask("m", messages, sampling=sampling)
            await answer
            return answer.done

    done = await asyncio.gather(*(asked(*turn) for turn in turns))
    seconds = sum(one.timings.decode for one in done)
    return Round(
        num_streams * sum(len(one.tokens) - 1 for one in done) / seconds,
        tuple(one.text for one in done),
        sum(one.usage.drafted_tokens for one in done),
        sum(one.usage.accepted_tokens for one in done),
    )


async def rows(
    weights: Weights, streams: Iterable[int], num_turns: int, num_rounds: int, draft: Path | None, beside: str
) -> list[Row]:
    """One for each kind of turn and number of streams; each round's ratios on the terminal."""
    flags = ("--threads", CORES, "--num-slots", max(streams), "--speculation")
    more = ("--draft-model", draft) if draft is not None else ()
    found = []
    async with (
        system(*flags, beside, model_file=weights.file) as off,
        system(*flags, "auto", *map(str, more), model_file=weights.file) as auto,
    ):
        for kind in kinds(num_turns):
            for num_streams in streams:
                rounds: dict[str, list[Round]] = {"off": [], "auto": []}
                for which in ORDER * num_rounds:
                    running = auto if which == "auto" else off
                    rounds[which].append(await measured(running, kind.turns, num_streams))
                found.append(row_of(weights, kind, num_streams, rounds, draft))
    return found


def row_of(weights: Weights, kind: Asked, num_streams: int, rounds: dict[str, list[Round]], draft: Path | None) -> Row:
    """The median of the rounds' ratios; what was guessed and which answers differ is told besides."""
    ratios = [with_.rate / without.rate for with_, without in zip(rounds["auto"], rounds["off"], strict=True)]
    with_, without = rounds["auto"][-1], rounds["off"][-1]
    num_same = sum(a == b for a, b in zip(with_.texts, without.texts, strict=True))
    by = f" by {draft.stem}" if draft is not None else ""
    name = weights.of(f"decode with guesses{by}, {kind.name}, {num_streams} at once")
    each = " ".join(f"{ratio:.3f}" for ratio in ratios)
    guessed = f"{with_.num_accepted} of {with_.num_drafted} guesses right"
    print(f"{name}: {each}; {guessed}; {num_same} of {len(with_.texts)} answers the same")
    rate, peer = (statistics.median(one.rate for one in rounds[which]) for which in ("auto", "off"))
    return Row(name, f"{rate:.1f}/s", f"{peer:.1f}/s", statistics.median(ratios), kind.least[num_streams])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-file", type=Path, help="one model instead of all")
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS, choices=STREAMS)
    parser.add_argument("--turns", type=int, default=30, help="of the tasks")
    parser.add_argument("--rounds", type=int, default=1, help="of two pairs each")
    parser.add_argument("--draft-model", type=Path, help="of the worker with guesses")
    parser.add_argument("--beside", choices=("off", "auto"), default="off", help="the other worker's --speculation")
    said = parser.parse_args()
    weights = [Weights(said.model_file, said.model_file.stem)] if said.model_file else all_weights()
    found = []
    for one in weights:
        found += asyncio.run(rows(one, said.streams, said.turns, said.rounds, said.draft_model, said.beside))
    show("guesses against none", found)


if __name__ == "__main__":
    main()
