"""`turnpike ask`: one turn, streamed to the terminal."""

from __future__ import annotations

import asyncio
import sys

import msgspec

from broker.client import Answer, Client
from broker.connection import Address
from broker.discovery import CHAT
from broker.messages import Done, Failed, Message, Sampling
from broker.process import EXIT_INTERRUPTED
from producers.elsewhere import PATIENT_SECONDS, ask_routed
from producers.routing import Needs, Routes, choose

NO_ROUTES = Routes()
PLACE_SECONDS = 2.0
CHATS = Needs(can=frozenset({CHAT}))


async def resolve(client: Client, model: str, routes: Routes = NO_ROUTES, needs: Needs = CHATS) -> str:
    """The model that `auto` or a policy stands for; any other name is a model's. Raises UnservedModel."""
    if routes.policy(model) is None:
        return model
    # On a busy board the answers come late: only who is silent for longer is not there.
    return choose(routes, model, await client.workers() or await client.workers(PATIENT_SECONDS), needs).model


async def ask(
    address: Address,
    model: str,
    text: str,
    sampling: Sampling,
    stop: asyncio.Event,
    *,
    routes: Routes = NO_ROUTES,
    as_json: bool = False,
) -> int:
    """Prints the answer as it comes, or its end as JSON. ^C cancels the turn."""
    async with Client(address) as client:
        answer = await ask_routed(client, routes, model, [Message("user", text)], sampling=sampling)
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(cancel_on(stop, answer))
            waiting = group.create_task(_tell_place(answer)) if sys.stderr.isatty() and not as_json else None
            await _show(answer, as_json)
            stopping.cancel()
            if waiting is not None:
                waiting.cancel()
        if as_json:
            assert answer.end is not None
            print(msgspec.json.encode(answer.end).decode())  # noqa: T201
        return EXIT_INTERRUPTED if stop.is_set() else 0


async def cancel_on(stop: asyncio.Event, answer: Answer) -> None:
    """Cancels the turn when `stop` is set."""
    await stop.wait()
    await answer.cancel()


async def _tell_place(answer: Answer) -> None:
    """While the turn waits, about where it is in line."""
    while answer.end is None and answer.started is None:
        await asyncio.sleep(PLACE_SECONDS)
        if (place := await answer.place()) is not None:
            when = "" if place.seconds is None else f", about {place.seconds:.0f} s"
            sys.stderr.write(f"[{place.turns_ahead} turns ahead{when}]\n")


async def _show(answer: Answer, as_json: bool) -> None:
    attempt = 0
    async for chunk in answer:
        if as_json:
            continue
        if chunk.attempt > attempt:
            attempt = chunk.attempt
            sys.stdout.write("\n[started again by another worker]\n")
        sys.stdout.write(chunk.text)
        sys.stdout.flush()
    if not as_json:
        sys.stdout.write("\n")
        sys.stderr.write(summary(answer) + "\n")


def summary(answer: Answer) -> str:
    """One line of figures."""
    match answer.end:
        case Done(usage=usage, timings=timings, finish_reason=reason):
            rate = (usage.completion_tokens - 1) / timings.decode if timings.decode else 0
            return (
                f"[{reason}: {usage.prompt_tokens} prompt tokens, {usage.cached_tokens} of them cached; "
                f"{usage.completion_tokens} tokens at {rate:.1f}/s; waited {timings.queue_wait * 1000:.0f} ms]"
            )
        case Failed(code=code, detail=detail):
            return f"[{code}: {detail}]"
        case None:
            return "[no end]"
