"""Trying again, in one place: what is tried, after which errors, how often, for how long, and who is told."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable


async def retried[T](
    attempt: Callable[[], Awaitable[T]],
    *,
    after: type[Exception] | tuple[type[Exception], ...],
    delay: float,
    patience: float | Callable[[Exception], float] = math.inf,
    tell: Callable[[Exception], object] = lambda _: None,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """What `attempt` comes back with, made again `delay` seconds after each of the errors named in `after`.

    An error that comes `patience` seconds after the first attempt began, or later, is raised; how patient to be may
    depend on the error. `tell` hears of every other one, and may raise where another attempt could not help. `pause`
    waits out the delay.
    """
    started = clock()
    while True:
        try:
            return await attempt()
        except after as error:
            seconds = patience(error) if callable(patience) else patience
            if clock() - started >= seconds:
                raise
            tell(error)
        await pause(delay)
