"""Work beside a server whose clients live on without it: on a connection of its own, begun anew where it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker.connection import Address, close, connect, watch
from broker.errors import TurnpikeError
from broker.retrying import retried

AGAIN_SECONDS = 1.0
"""Until work that lost its connection begins anew."""
_PASSING = (TurnpikeError, nats.errors.Error)
"""What work that is begun anew may not meet again."""

log = logging.getLogger(__name__)


async def connected(address: Address, name: str, work: Callable[[NatsConnection], Awaitable[None]]) -> None:
    """Work on a connection of its own, which is closed behind it. Raises ServerError."""
    nc = await connect(address, name=f"turnpike-{name}")
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(nc))
            await work(nc)
            watching.cancel()
    finally:
        await close(nc)


async def kept(
    address: Address, name: str, work: Callable[[NatsConnection], Awaitable[None]], stop: asyncio.Event
) -> None:
    """As `connected`, and begun anew where that ends before `stop`."""

    async def attempt() -> None:
        if stop.is_set():
            return
        try:
            await connected(address, name, work)
        except ExceptionGroup as group:
            expected, others = group.split(_PASSING)
            raise others or (expected or group).exceptions[0] from None
        except asyncio.CancelledError:
            # A signal cancels who connects; this has begun long ago as its process sees it, and ends as `stop` says.
            if not stop.is_set():
                raise

    async def until_stop(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)

    await retried(
        attempt,
        after=_PASSING,
        delay=AGAIN_SECONDS,
        tell=lambda error: log.warning("%s begins anew error=%s", name, error),
        pause=until_stop,
    )
