"""A producer process for the chaos runs: asks, writes down what it sees, and after a death follows what it had asked.

    python -m tests.chaos.producer CREDENTIALS FILE SEED [SIZE] [MODELS] [TURNS] [PAUSE]

FILE gets a JSON line for each thing seen. SIGTERM: no new turns, wait for the ends of the old ones. Of MODELS, with
commas between them, each is asked (NAME=SIZE: as one of that size), for batch too. All its lives ask TURNS, then it
ends. After each turn it waits for PAUSE seconds, on average.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from broker.accounts import read_credentials
from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.errors import PublishError
from broker.messages import Sampling, new_id
from broker.priorities import BATCH, DEFAULT_PRIORITY

MODEL = "chaos"
CONCURRENCY = 4
WORDS = ("radio", "node", "alarm", "power", "mast", "antenna", "battery", "link", "signal", "cable", "fan", "clock")
NUM_CASES = 12
NUM_CASES_EACH = 3
START_SECONDS = 60.0


SIZES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "small": ((20, 200), (200, 1200)),
    "real": ((10, 60), (8, 48)),
    "boards": ((5, 40), (100, 700)),
}
"""By the size of the model: from how many to how many words a question has, and tokens an answer."""


def case(number: int, size: str = "small") -> tuple[str, Sampling]:
    """One of the questions; some are sampled, all of them run to their full length."""
    words, tokens = SIZES[size]
    rng = random.Random(number)
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(*words)))
    temperature = 0.8 if number % 3 == 2 else 0.0
    return text, Sampling(
        max_tokens=rng.randrange(*tokens), ignore_eos=True, temperature=temperature, top_k=40, seed=number
    )


class Log:
    """What was seen, on disk before anything else happens."""

    def __init__(self, file: IO[str], session: str) -> None:
        self._file = file
        self._session = session

    def note(self, event: str, turn: str, **fields: object) -> None:
        line = {"event": event, "turn": turn, "session": self._session, "at": time.monotonic(), **fields}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


async def read(answer: Answer, log: Log) -> None:
    """Writes down each token as it comes, then the end."""
    turn = answer.turn.id
    try:
        async for chunk in answer:
            log.note("chunk", turn, attempt=chunk.attempt, tokens=chunk.tokens)
    except TurnFailed as error:
        log.note("failed", turn, code=error.failed.code)
        return
    log.note("done", turn, attempt=answer.done.attempt)


def num_cases(models: Sequence[str]) -> int:
    """Of several models a few each."""
    return NUM_CASES if len(models) == 1 else NUM_CASES_EACH * len(models)


def model_of(number: int, models: Sequence[str], size: str) -> tuple[str, str]:
    """Which one a case is for, and of what size it is."""
    name, _, own = models[number % len(models)].partition("=")
    return name, own or size


async def ask(client: Client, number: int, size: str, models: Sequence[str], log: Log) -> bool:
    """Whether it was acknowledged, after its end."""
    model, size = model_of(number, models, size)
    text, sampling = case(number, size)
    priority = BATCH if len(models) > 1 and number % 4 == 3 else DEFAULT_PRIORITY
    answer = client.ask(model, text, sampling=sampling, priority=priority)
    try:
        await answer.publish()
    except PublishError as error:
        log.note("unsure", answer.turn.id, reason=str(error))
        await asyncio.sleep(0.5)  # the server is away
        return False
    log.note("acknowledged", answer.turn.id, case=number)
    await read(answer, log)
    return True


def earlier(path: Path) -> tuple[int, list[str]]:
    """How many turns of earlier lives were acknowledged, and those not seen to end."""
    turns: dict[str, None] = {}
    num_acknowledged = 0
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off by the kill
        if entry["event"] == "acknowledged":
            turns[entry["turn"]] = None
            num_acknowledged += 1
        elif entry["event"] in ("done", "failed"):
            turns.pop(entry["turn"], None)
    return num_acknowledged, list(turns)


async def main(
    credentials: Path,
    left: list[str],
    log: Log,
    rng: random.Random,
    size: str,
    models: Sequence[str],
    num_turns: float,
    pause: float,
) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    # It may begin while the server is away.
    address = dataclasses.replace(read_credentials(credentials), wait=START_SECONDS)
    async with Client(address) as client, asyncio.TaskGroup() as group:
        for turn in left:
            group.create_task(read(client.follow(turn), log))

        async def keep_asking() -> None:
            nonlocal num_turns
            while not stop.is_set() and num_turns > 0:
                num_turns -= 1
                if not await ask(client, rng.randrange(num_cases(models)), size, models, log):
                    num_turns += 1
                elif pause:
                    await asyncio.sleep(rng.expovariate(1 / pause))

        for _ in range(CONCURRENCY):
            group.create_task(keep_asking())


def run() -> None:
    if len(sys.argv) not in range(4, 9):
        sys.exit(
            f"usage: python -m tests.chaos.producer CREDENTIALS FILE SEED [{'|'.join(SIZES)}] [MODELS] [TURNS] [PAUSE]"
        )
    credentials, path, seed = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    size = sys.argv[4] if len(sys.argv) > 4 else "small"
    models = sys.argv[5].split(",") if len(sys.argv) > 5 else [MODEL]
    num_acknowledged, left = earlier(path)
    num_turns = float(sys.argv[6]) - num_acknowledged if len(sys.argv) > 6 else math.inf
    pause = float(sys.argv[7]) if len(sys.argv) > 7 else 0.0
    with path.open("a") as file:
        asyncio.run(main(credentials, left, Log(file, new_id()), random.Random(seed), size, models, num_turns, pause))


if __name__ == "__main__":
    run()
