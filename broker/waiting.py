"""Waiting for one of two things, neither of which is lost by that."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Awaits the work; False as soon as `stop` is set before it is done, which cancels it."""
    working = asyncio.ensure_future(work)
    try:
        if is_done := await comes_before(working, stop):
            await working
        return is_done
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def comes_before(found: asyncio.Future[Any], stop: asyncio.Event) -> bool:
    """Whether something was found before `stop` was set; what was not goes on being looked for."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        both: set[asyncio.Future[Any]] = {found, stopping}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    return found.done()
