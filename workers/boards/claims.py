"""The copies of models that a board has claimed: renewed while it has them, so that no other board loads them too."""

from __future__ import annotations

import asyncio
import logging

from nats.aio.client import Client as NatsConnection

from broker import placing
from broker.errors import PublishError, ServerError
from broker.messages.boards import Claim

MAX_COPIES = 64
LEAVE_SECONDS = 2.0
"""For the server to take back all claims at the end; what it does not hear expires."""

log = logging.getLogger(__name__)


class Claims:
    """One a model. What the server does not take is logged, and tried again at the next renewal."""

    def __init__(self, nc: NatsConnection, board: str) -> None:
        self._nc = nc
        self._board = board
        self._held: dict[str, Claim] = {}
        self.num_lost = 0
        """Copies that another board had when this one wanted or renewed them."""

    async def take(self, model: str, copy: int) -> bool:
        """Whether this board has that copy now."""
        wanted = Claim(self._board, model, copy)
        is_taken = await self._claim(wanted)
        if is_taken:
            self._held[model] = wanted
        self.num_lost += is_taken is False
        return is_taken or False

    async def let_go(self, model: str) -> None:
        """It has no copy of the model any more; nothing where it had none."""
        held = self._held.pop(model, None)
        if held is not None:
            await self._release(held)

    async def let_all_go(self) -> None:
        """It has nothing any more. Where the server is away that is not waited for."""
        held = [*self._held.values()]
        self._held.clear()
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await asyncio.gather(*map(self._release, held))
        except TimeoutError:
            log.warning("not released models=%s: they expire", ",".join(one.model for one in held))

    async def renew(self) -> list[str]:
        """All that it has, at once; the models whose copy another board took while this one was away."""
        held = [*self._held.values()]
        found = await asyncio.gather(*map(self._claim, held))
        lost = []
        for one, is_held in zip(held, found, strict=True):
            if self._held.get(one.model) != one:  # let go of meanwhile
                if is_held:
                    await self._release(one)
            elif is_held is False:
                self.num_lost += 1
                lost.append(one.model)
        return lost

    async def move(self, model: str) -> None:
        """It has the model, and lost its copy to another board: the first free one becomes this board's."""
        held = self._held.get(model)
        for copy in range(MAX_COPIES):
            # Let go of meanwhile: nothing is claimed for it.
            if held is None or self._held.get(model) != held:
                return
            other = Claim(self._board, model, copy)
            match await self._claim(other):
                case True if self._held.get(model) != held:
                    await self._release(other)
                    return
                case True:
                    log.info("claimed model=%s copy=%d instead of %d", model, copy, held.copy)
                    self._held[model] = other
                    return
                case None:
                    return

    async def _claim(self, wanted: Claim) -> bool | None:
        """Whether it has it now; None where the server does not say."""
        try:
            return await placing.claim(self._nc, wanted)
        except (ServerError, PublishError) as error:
            log.warning("not claimed model=%s copy=%d error=%s", wanted.model, wanted.copy, error)
            return None

    async def _release(self, held: Claim) -> None:
        try:
            await placing.release(self._nc, held)
        except (ServerError, PublishError) as error:
            log.warning("not released model=%s copy=%d error=%s: it expires", held.model, held.copy, error)
