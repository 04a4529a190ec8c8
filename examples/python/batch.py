"""A batch job that may be killed and goes on: a prompt a line, an answer a line, nothing asked twice, nothing lost.

    TURNPIKE_CREDENTIALS=me.credentials python batch.py demo prompts.txt answers.jsonl

Killed at any instant, the same command goes on: answers.jsonl has what was answered, answers.queued what was queued. A
turn's id follows from the job and the line, so that of one whose queuing was not written down any more the server takes
no second, for two minutes; and a worker computes nothing that has ended. What has ended can be read for a day.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import secrets
import sys
from pathlib import Path
from typing import IO

from turnpike import (
    Client,
    DuplicateTurn,
    Message,
    QueueFull,
    Sampling,
    Turn,
    TurnFailed,
    TurnpikeError,
    read_credentials,
)

AT_ONCE = 64
RETRY_SECONDS = 1.0


def lines_of(path: Path) -> list[str]:
    """The file's lines; one that a kill has cut off is taken away."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    return whole.decode().splitlines()


def add(file: IO[str], line: str) -> None:
    file.write(line + "\n")
    file.flush()


async def queue(client: Client, model: str, turn: Turn) -> None:
    while True:
        try:
            await client.publish(turn, model, "batch")
            return
        except DuplicateTurn:  # by an earlier life
            return
        except QueueFull:
            await asyncio.sleep(RETRY_SECONDS)


async def answer_of(client: Client, turn: Turn) -> dict[str, str]:
    try:
        return {"text": (await client.follow(turn.id)).text}
    except TurnFailed as error:
        return {"failed": str(error)}


async def main(model: str, prompts: Path, answers: Path) -> None:
    address = read_credentials(Path(os.environ["TURNPIKE_CREDENTIALS"]))
    texts = prompts.read_text().splitlines()  # before anything is written
    journal = answers.with_suffix(".queued")
    if not lines_of(journal):
        journal.write_text(secrets.token_hex(8) + "\n")
    job, *numbers = lines_of(journal)
    queued = set(numbers)
    done = {json.loads(line)["number"] for line in lines_of(answers)}
    left = ((number, prompt) for number, prompt in enumerate(texts) if number not in done)
    with answers.open("a") as told, journal.open("a") as written:
        async with Client(address) as client, asyncio.TaskGroup() as group:

            async def one_after_another() -> None:
                for number, prompt in left:
                    name = hashlib.sha256(f"{job} {number}".encode()).hexdigest()[:32]
                    turn = Turn(name, name, (Message("user", prompt),), Sampling(max_tokens=200))
                    if str(number) not in queued:
                        await queue(client, model, turn)
                        add(written, str(number))
                    add(told, json.dumps({"number": number, "prompt": prompt} | await answer_of(client, turn)))

            for _ in range(AT_ONCE):
                group.create_task(one_after_another())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("answers", type=Path)
    named = parser.parse_args()
    if "TURNPIKE_CREDENTIALS" not in os.environ:
        parser.error("TURNPIKE_CREDENTIALS is not set: it names the file that `turnpike user add` wrote")
    problem: BaseException | None = None
    try:
        asyncio.run(main(**vars(named)))
    except* (TurnpikeError, OSError) as errors:
        problem = errors.exceptions[0]
    if isinstance(problem, OSError):
        sys.exit(f"batch: {problem.filename}: {problem.strerror}")
    if problem is not None:
        sys.exit(f"batch: {problem}; run it again, it goes on")
