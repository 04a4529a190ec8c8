"""The queue's side: answers what the harness asked for, and compares its choices with `turnpike eval`'s."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import msgspec

from broker.accounts import read_credentials
from broker.client import Client
from broker.messages import Message
from producers.evaluate.methods import Answered

AT_ONCE = 16


async def answer(folder: Path, credentials: Path, model: str) -> None:
    """Log-likelihoods of every pair of context and continuation in asked.json."""
    waiting = iter(json.loads((folder / "asked.json").read_text()))
    scores: dict[str, float] = {}
    async with Client(read_credentials(credentials)) as client:

        async def one_after_another() -> None:
            for context, continuation in waiting:
                prompt = [Message("user", context)]
                done = await client.ask(model, prompt, kind="score", continuations=[continuation], raw=True)
                scores[json.dumps([context, continuation])] = done.scores[0].logprob

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    (folder / "scores.json").write_text(json.dumps(scores))


def compare(folder: Path) -> None:
    """Item by item: ours.jsonl against chosen.json."""
    lines = (folder / "ours.jsonl").read_bytes().splitlines()
    ours = sorted((msgspec.json.decode(line, type=Answered) for line in lines), key=lambda one: one.number)
    theirs: list[list[float]] = json.loads((folder / "chosen.json").read_text())
    pairs = list(zip(ours, theirs, strict=True))
    same = sum(one.chosen("partial") == scores.index(max(scores)) for one, scores in pairs)
    apart = max(abs(a - b) for one, scores in pairs for a, b in zip(one.scores["partial"], scores, strict=True))
    print(f"the same choice in {same} of {len(pairs)}, sums at most {apart:.1e} apart")


if __name__ == "__main__":
    if len(sys.argv) < 3 or (len(sys.argv) != 4 and sys.argv[2] != "--compare"):
        sys.exit("usage: python -m benchmarks.lm_eval.answer FOLDER (CREDENTIALS MODEL | --compare)")
    if sys.argv[2] == "--compare":
        compare(Path(sys.argv[1]))
    else:
        asyncio.run(answer(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
