"""Waiting for one of two things, neither of which is lost by that; and for what comes often, at little cost."""

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


class Bell:
    """Wakes the one who waits for it, or lets it wait no longer than it said.

    The timer is made anew once it has gone off and not for each wait, of which most end long before.
    """

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None
        self._waits_until = 0.0
        """By the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    def ring(self) -> None:
        """Wakes who waits, if anybody does."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def rung(self, seconds: float) -> None:
        """Comes back when it rings, or after so many seconds."""
        loop = asyncio.get_running_loop()
        self._waiting = waiting = loop.create_future()
        self._waits_until = loop.time() + seconds
        if self._timer is None or self._timer.when() > self._waits_until:
            self._set_timer(loop)
        try:
            await waiting
        finally:
            if self._waiting is waiting:
                self._waiting = None

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self.close()
        self._timer = loop.call_at(self._waits_until, self._time_is_up, loop)

    def _time_is_up(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if loop.time() < self._waits_until:  # a later wait's
            self._set_timer(loop)
        else:
            self.ring()

    def close(self) -> None:
        """Nobody is to wait any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
