"""The copies of models that a board has claimed: renewed while it has them, so that no other board loads them too."""

from __future__ import annotations

import asyncio
import logging

from nats.aio.client import Client as NatsConnection

from broker import placing
from broker.errors import PublishError, ServerError
from broker.messages.boards import Claim
from broker.placing import RENEW_SECONDS, Watch

MAX_COPIES = 64
REFRESH_RENEWALS = 3
"""After so many renewals it is read again what all boards say: what may have been missed."""

log = logging.getLogger(__name__)


class Claims:
    """One a model. What the server does not take is logged, and tried again at the next renewal."""

    def __init__(self, nc: NatsConnection, board: str) -> None:
        self._nc = nc
        self._board = board
        self._held: dict[str, Claim] = {}

    async def take(self, model: str, copy: int) -> bool:
        """Whether this board has that copy now."""
        wanted = Claim(self._board, model, copy)
        try:
            is_taken = await placing.claim(self._nc, wanted)
        except (ServerError, PublishError) as error:
            log.warning("not claimed model=%s copy=%d error=%s", model, copy, error)
            return False
        if is_taken:
            self._held[model] = wanted
        return is_taken

    async def let_go(self, model: str) -> None:
        """It has no copy of the model any more; nothing where it had none."""
        held = self._held.pop(model, None)
        if held is None:
            return
        try:
            await placing.release(self._nc, held)
        except (ServerError, PublishError) as error:
            log.warning("not released model=%s copy=%d error=%s: it expires", model, held.copy, error)

    async def let_all_go(self) -> None:
        """It has nothing any more."""
        for model in list(self._held):
            await self.let_go(model)

    async def renew(self) -> None:
        """All that it has. Where another board took a copy while this one was away from the server, the first free one
        becomes this board's."""
        for model, held in list(self._held.items()):
            try:
                if await placing.claim(self._nc, held):
                    continue
                for copy in range(MAX_COPIES):
                    other = Claim(self._board, model, copy)
                    # Let go of meanwhile: nothing is claimed for it.
                    if self._held.get(model) != held:
                        break
                    if await placing.claim(self._nc, other):
                        log.info("claimed model=%s copy=%d instead of %d", model, copy, held.copy)
                        self._held[model] = other
                        break
            except (ServerError, PublishError) as error:
                log.warning("not renewed model=%s copy=%d error=%s", model, held.copy, error)

    async def keep(self, watch: Watch) -> None:
        """Renews them, and reads now and then what there is, until it is cancelled."""
        while True:
            for _ in range(REFRESH_RENEWALS):
                await asyncio.sleep(RENEW_SECONDS)
                await self.renew()
            try:
                await watch.refresh()
            except ServerError as error:
                log.warning("placement not read error=%s", error)
