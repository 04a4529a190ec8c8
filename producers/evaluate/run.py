"""Items answered over the queue, batch turns all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.locks import Lock
from broker.messages import Done, Message
from broker.priorities import BATCH
from broker.waiting import unless
from producers.evaluate import tool_calls
from producers.evaluate.items import Item
from producers.evaluate.methods import Answered, evaluate
from producers.evaluate.stored import Numbered, choice, marks_of, read_outcomes
from producers.evaluate.tool_calls import Called, ToolItem

STOP_SECONDS = 0.35
"""How long the cancels of what runs may take."""


@dataclass(frozen=True)
class Way[I: Numbered, A: Numbered]:
    """How an item becomes a turn, its end an outcome, and a line of the record that again."""

    ask: Callable[[Client, str, I], Answer]
    judge: Callable[[I, Done], A]
    read: Callable[[bytes], A]
    """Raises msgspec.DecodeError."""


def _scored(client: Client, model: str, item: Item) -> Answer:
    return client.ask(
        model,
        [Message("user", item.context)],
        kind="score",
        continuations=item.continuations,
        priority=BATCH,
        raw=True,
    )


CHOICE = Way[Item, Answered](_scored, lambda item, done: evaluate(item, done.scores), choice)
"""Multiple choice: the candidates' scores."""
TOOLS = Way[ToolItem, Called](
    tool_calls.ask,
    lambda item, done: tool_calls.judge(item, done.tool_calls, done.text),
    partial(msgspec.json.decode, type=Called),
)
"""Requests beside tools: what is called."""


async def run[I: Numbered, A: Numbered](
    client: Client,
    model: str,
    items: Sequence[I],
    way: Way[I, A],
    *,
    concurrency: int = 4,
    done: Callable[[A, Answer], None] = lambda answered, answer: None,
    stop: asyncio.Event | None = None,
    failed: Callable[[I, TurnFailed], None] | None = None,
) -> list[A]:
    """Asks the items, batch turns all of them; raises PublishError, and TurnFailed without `failed`.

    `stop` cancels what runs and comes back at once, with what was answered by then.
    """
    waiting = iter(items)
    found: list[A] = []
    running: set[Answer] = set()

    async def one_after_another() -> None:
        for item in waiting:
            answer = way.ask(client, model, item)
            running.add(answer)
            try:
                done_turn = await answer
            except TurnFailed as error:
                if failed is None:
                    raise
                running.discard(answer)
                failed(item, error)
                continue
            running.discard(answer)
            answered = way.judge(item, done_turn)
            found.append(answered)
            done(answered, answer)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(items))):
                group.create_task(one_after_another())

    if not await unless(stop or asyncio.Event(), all_of_them()):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*(answer.cancel() for answer in running), return_exceptions=True)
    return sorted(found, key=lambda answered: answered.number)


async def run_on[I: Numbered, A: Numbered](
    client: Client,
    model: str,
    items: Sequence[I],
    way: Way[I, A],
    out: Path | None,
    stop: asyncio.Event,
    concurrency: int = 4,
    say: Callable[[str], None] = lambda text: None,
) -> list[A]:
    """As `run`, with what was answered in `out`, from which it goes on after an interruption. Raises EvalError too,
    also where that has answers to other items, or of another model.

    An item that fails is left out and told; raises TurnFailed where all that were asked do.
    """
    with Lock.of(out, "the record") if out is not None else contextlib.nullcontext():
        return await _run_on(client, model, items, way, out, stop, concurrency, say)


async def _run_on[I: Numbered, A: Numbered](
    client: Client,
    model: str,
    items: Sequence[I],
    way: Way[I, A],
    out: Path | None,
    stop: asyncio.Event,
    concurrency: int,
    say: Callable[[str], None],
) -> list[A]:
    marks = marks_of(model, items, {worker.fingerprint for worker in await client.served(model)})
    before = read_outcomes(out, say, way.read, marks) if out is not None and out.exists() else []
    known = {answered.number for answered in before}
    left = [item for item in items if item.number not in known]
    say(f"{len(items)} items, {len(items) - len(left)} of them answered before")
    file = out.open("ab", buffering=0) if out is not None else None

    def note(answered: A, answer: Answer) -> None:
        if file is not None:
            file.write(marks.line(answered, answer.started.model if answer.started is not None else ""))

    failures: list[tuple[I, TurnFailed]] = []
    try:
        answers = await run(
            client,
            model,
            left,
            way,
            concurrency=concurrency,
            done=note,
            stop=stop,
            failed=lambda item, error: failures.append((item, error)),
        )
    finally:
        if file is not None:
            file.close()
    if failures:
        item, error = failures[0]
        say(f"items that failed and are left out: {len(failures)}, the first of them {item.number} by {error}")
        if not answers:
            raise error
    wanted = {item.number for item in items}
    return [*(answered for answered in before if answered.number in wanted), *answers]
