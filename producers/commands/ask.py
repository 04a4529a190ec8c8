"""`turnpike ask`: one turn, streamed to the terminal."""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec

from broker.answer import TurnFailed
from broker.client import Client
from broker.connection import Address
from broker.errors import PublishError
from broker.messages import Chunk, End, Failed, Message, Sampling
from broker.priorities import DEFAULT_PRIORITY, Priority
from broker.process import EXIT_INTERRUPTED
from broker.waiting import unless
from producers.routing.asking import NO_ROUTES, ask_routed
from producers.routing.policies import Needs, Routes
from producers.routing.waiting import choosable
from producers.terminal.following import Following, with_seed
from producers.terminal.printing import Printer, advice, summary

TO_DO = "ask less, or start its worker with a larger --num-ctx"


async def ask(
    address: Address,
    model: str,
    text: str,
    sampling: Sampling,
    stop: asyncio.Event,
    *,
    system: str | None = None,
    priority: Priority = DEFAULT_PRIORITY,
    deadline_seconds: float | None = None,
    routes: Routes = NO_ROUTES,
    as_json: bool = False,
    is_seeded: bool = True,
    is_plain: bool = False,
    raw: bool = False,
) -> int:
    """Prints the answer as it comes, or its end as JSON, a failed one too. `stop` cancels the turn.

    Where nobody serves the model, one is waited for as long as the address says. Without `is_seeded` tokens are drawn
    with a seed of their own; `raw`, the text is the prompt itself; `is_plain`, Markdown is written as it stands. A turn
    that has not ended after `deadline_seconds` fails. Raises NotServed, PublishError, TurnFailed.
    """
    printer = Printer(is_plain)
    until = None if deadline_seconds is None else time.time() + deadline_seconds
    async with Client(address) as client:
        messages, drawn = [Message("user", text)], with_seed(sampling, is_seeded)
        if system:
            messages.insert(0, Message("system", system))
        needs = Needs.of(messages, raw=raw)
        if not await unless(stop, choosable(client, routes, model, needs, address.wait, printer.note)):
            return EXIT_INTERRUPTED
        try:
            answer = await ask_routed(
                client, routes, model, messages, sampling=drawn, raw=raw, priority=priority, deadline=until
            )
            show = _ignored if as_json else printer.show
            tells_place = sys.stderr.isatty() and not as_json
            following = Following(client, answer, show, printer.note, address.wait, tells_place)
            await following.until(stop)
        except TurnFailed as error:
            printer.end_line()
            _print_end(as_json, error.failed, drawn)
            if not as_json and (told := advice(answer, TO_DO)) is not None:
                printer.note(told)
            raise
        except PublishError as error:
            _print_end(as_json, Failed("not_published", str(error), retryable=True), drawn)
            raise
    printer.end_line()
    if answer.end is not None:
        _print_end(as_json, answer.end, drawn)
    if not as_json:
        printer.note(summary(answer))
        if (told := advice(answer, TO_DO)) is not None:
            printer.note(told)
    return EXIT_INTERRUPTED if following.was_stopped else 0


def _ignored(chunk: Chunk) -> None:
    pass


def _print_end(as_json: bool, end: End, sampling: Sampling) -> None:
    if as_json:
        seed = {"seed": sampling.seed} if sampling.temperature else {}
        sys.stdout.write(msgspec.json.encode(msgspec.to_builtins(end) | seed).decode() + "\n")
