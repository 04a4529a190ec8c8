"""Waiting for what may not come: only where it was asked for, never without a word, and no longer than until a ^C."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import nats.errors

from broker.client import Client
from broker.errors import ServerError
from producers.routing.policies import Needs, NoneAble, NoneServed, Routes, choose

LOOK_SECONDS = 2.0


async def ready(client: Client, model: str, wait_seconds: float, say: Callable[[str], object]) -> None:
    """Comes back when the model is served; waits for a worker as long as it is told to, and says so. Raises NotServed,
    UnservedModel, ServerError."""
    if wait_seconds and not await client.is_served(model):
        say(f"nobody serves {model} yet: waiting up to {wait_seconds:g} s for a worker; ^C ends")
    await client.until_served(model, wait_seconds)


async def choosable(
    client: Client, routes: Routes, wanted: str, needs: Needs, wait_seconds: float, say: Callable[[str], object]
) -> None:
    """Comes back when a policy has a model to choose, or after as long as it is told to wait; says that it waits. A
    model that was named is not waited for: see `ready`."""
    until, has_told = time.monotonic() + wait_seconds, False
    while routes.policy(wanted) is not None and time.monotonic() < until:
        try:
            choose(routes, wanted, await client.workers() or await client.workers(LOOK_SECONDS), needs)
            return
        except NoneServed:
            if not has_told:
                say(f"nobody serves a model for {wanted} yet: waiting up to {wait_seconds:g} s for a worker; ^C ends")
                has_told = True
        except NoneAble:
            return


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Awaits the work; False as soon as `stop` is set before it is done, which cancels it."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        return working.done()
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def is_served(client: Client, model: str) -> bool:
    """Whether a worker answers; True while nobody can tell."""
    try:
        return await client.is_served(model)
    except (ServerError, nats.errors.Error):  # cut off
        return True


@asynccontextmanager
async def telling(client: Client, models: Iterable[str], say: Callable[[str], object]) -> AsyncIterator[None]:
    """While entered, says it when a model has lost its last worker, and when there is one again."""

    async def watch(model: str) -> None:
        was_served = True
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if (now := await is_served(client, model)) != was_served:
                say(
                    f"{model} is served again"
                    if now
                    else f"nobody serves {model} just now: its turns wait for a worker"
                )
                was_served = now

    tasks = [asyncio.ensure_future(watch(model)) for model in models]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
