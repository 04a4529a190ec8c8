"""A worker without a model yet, started ahead: its process and its libraries are there, a load begins with the file."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from workers.boards.board import Board
from workers.boards.child import Child
from workers.boards.offers import Offer
from workers.machine.memory import PROCESS_BYTES

SPARE_BYTES = PROCESS_BYTES
"""What is planned for it: as much as a worker's processes take, whatever their model."""

AGAIN_SECONDS = 30.0
"""Before another one is started where one has ended by itself."""

log = logging.getLogger(__name__)


class Spare:
    """A board's: one at most. It is started while what is in a load's way still drains, where there is room for it, and
    kept at all times where the board says so."""

    def __init__(self, board: Board, heard: Callable[[], None]) -> None:
        """`heard` is called whenever a worker says something new."""
        self._board = board
        self._heard = heard
        self._child: Child | None = None
        self._again_at = float("-inf")

    @property
    def reserved_bytes(self) -> int:
        """Of memory that is for no model."""
        return SPARE_BYTES if self._board.keeps_spare else 0

    @property
    def pids(self) -> list[int]:
        """Of the one that there is."""
        return [] if self._child is None else [self._child.pid]

    async def begin(self, room_bytes: int) -> None:
        """Starts one, where there is none yet and room for it beside all that is planned."""
        await self._forget_ended()
        is_wanted = self._board.start_spare is not None and self._child is None and room_bytes >= SPARE_BYTES
        if not is_wanted or time.monotonic() < self._again_at:
            return
        assert self._board.start_spare is not None
        try:
            self._child = await self._board.start_spare(self._heard)
        except OSError as error:
            log.warning("no worker started ahead error=%s", error.strerror or error)

    async def keep(self, *, is_wanted: bool = False) -> None:
        """Starts one where the board always has one; else lets one go that nothing is to be loaded by."""
        if self._board.keeps_spare:
            await self.begin(SPARE_BYTES)
        elif not is_wanted:
            await self.end()

    async def start(self, offer: Offer) -> Child:
        """A worker of the offer's: the one that is there, which has waited for its model, else a new one. Raises
        OSError."""
        await self._forget_ended()
        child, self._child = self._child, None
        if child is not None:
            assert offer.plan is not None
            child.give(offer.model, offer.plan.offload_cache)
        else:
            child = await self._board.start(offer, self._heard)
        await self.keep()  # beside the load, which keeps one core busy: it is there for the next one
        return child

    async def _forget_ended(self) -> None:
        if self._child is not None and self._child.has_ended:
            log.warning("the worker that was started ahead has ended: %s", await self.end())
            self._again_at = time.monotonic() + AGAIN_SECONDS

    async def end(self) -> str:
        """Ends the one that there is: it has nothing to hand back. What it said last."""
        child, self._child = self._child, None
        if child is None:
            return ""
        child.kill()
        await asyncio.shield(child.run())
        return child.last_words
