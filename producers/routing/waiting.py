"""Waiting for what may not come: only where it was asked for, never without a word, and no longer than until a ^C."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import nats.errors

from broker.client import Client
from broker.errors import ServerError
from broker.model_status import ModelStatus, is_coming
from producers.routing.asking import offers
from producers.routing.policies import Needs, NoneAble, NoneServed, Routes, choose

LOOK_SECONDS = 2.0
SERVED, UNSERVED = "served", "unserved"


async def ready(client: Client, model: str, wait_seconds: float, say: Callable[[str], object]) -> ModelStatus | None:
    """Comes back when a turn for the model would be answered; waits for a worker as long as it is told to, and says so.
    With what a board does that will load it, which it says too. Raises NotServed, UnservedModel, ServerError."""
    if wait_seconds and not await client.is_served(model) and not is_coming(await client.status(model)):
        say(f"nobody serves {model} yet: waiting up to {wait_seconds:g} s for a worker; ^C ends")
    if (status := await client.until_served(model, wait_seconds)) is not None:
        say(f"{model}: {status.words()}")
    return status


async def choosable(
    client: Client, routes: Routes, wanted: str, needs: Needs, wait_seconds: float, say: Callable[[str], object]
) -> None:
    """Comes back when a policy has a model to choose, or after as long as it is told to wait; says that it waits. A
    model that was named is not waited for: see `ready`."""
    until, has_told = time.monotonic() + wait_seconds, False
    while routes.policy(wanted) is not None and time.monotonic() < until:
        try:
            workers, boards = await offers(client, LOOK_SECONDS)
            choose(routes, wanted, workers, needs, boards=boards)
            return
        except NoneServed:
            if not has_told:
                say(f"nobody serves a model for {wanted} yet: waiting up to {wait_seconds:g} s for a worker; ^C ends")
                has_told = True
        except NoneAble:
            return


async def is_served(client: Client, model: str) -> bool:
    """Whether a worker answers; True while nobody can tell."""
    try:
        return await client.is_served(model)
    except (ServerError, nats.errors.Error):  # cut off
        return True


async def state_of(client: Client, model: str) -> tuple[str, str]:
    """What a model's turns wait for: SERVED, UNSERVED or a board's word, and the same for people."""
    if await is_served(client, model):
        return SERVED, f"{model} is served again"
    if (status := await client.status(model)) is not None:
        return status.state, f"{model}: {status.words()}"
    return UNSERVED, f"nobody serves {model} just now: its turns wait for a worker"


@asynccontextmanager
async def telling(client: Client, models: Iterable[str], say: Callable[[str], object]) -> AsyncIterator[None]:
    """While entered, says it when a model has lost its last worker, what boards do then, and when it has one again."""

    async def watch(model: str) -> None:
        told = SERVED
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now, words = await state_of(client, model)
            if now != told:
                say(words)
                told = now

    tasks = [asyncio.ensure_future(watch(model)) for model in models]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
