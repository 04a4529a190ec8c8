"""What a board has said in the bucket PLACEMENT, and what it hears there: kept up, or known not to be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from nats.aio.client import Client as NatsConnection

from broker import connection, placing
from broker.errors import PublishError, ServerError
from broker.messages.boards import LOADING, BoardState
from broker.placing import Placement, Watch
from workers.boards.board import OtherBoard
from workers.boards.claims import Claims

PROGRESS_SECONDS = 0.5
"""How often it says how far a load is."""
REFRESH_RENEWALS = 3
"""After so many renewals of its claims it reads again what all boards say: what it may have missed."""
SETTLE_SECONDS = 5.0
"""After the server was away, for all boards to say again what they have: what they said before may have expired."""

log = logging.getLogger(__name__)


class Presence:
    """A board's, on its connection. Enter it, and have `keep_up` run beside."""

    def __init__(self, nc: NatsConnection, board: str, began_at: float) -> None:
        self.claims = Claims(nc, board)
        self._nc = nc
        self._board = board
        self._began_at = began_at
        self._watch = Watch(nc)
        self._announced: tuple[object, ...] = ()
        self._announced_at = float("-inf")
        self._unheard_at = float("-inf")
        """When the server did not take its word last, by the monotonic clock."""

    async def __aenter__(self) -> Self:
        await self._watch.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._watch.__aexit__(kind, error, trace)

    def placement(self) -> Placement:
        """What holds now, as far as it was heard."""
        return self._watch.placement()

    def check_alone(self, placement: Placement) -> None:
        """Raises OtherBoard where one that began before this one still says that it is this board."""
        other = self._other(placement)
        if other is not None and other.started_at < self._began_at < other.sent_at:
            raise OtherBoard(self._board)

    def _other(self, placement: Placement) -> BoardState | None:
        """What another process says that says it is this board."""
        found = (one for one in placement.boards if one.board == self._board and one.started_at != self._began_at)
        return next(found, None)

    async def changed(self, seconds: float) -> bool:
        """Comes back when something was written since it came back last, or after so many seconds: False."""
        return await self._watch.changed(seconds)

    @property
    def is_settled(self) -> bool:
        """Whether what is heard is what there is: a board that has just come back, or whose server has, would load what
        others have loaded."""
        heard_seconds = time.monotonic() - self._unheard_at
        return min(heard_seconds, connection.connected_seconds(self._nc)) >= SETTLE_SECONDS

    async def keep_up(self, lost: Callable[[str], Awaitable[None]]) -> None:
        """Renews what is claimed, for ever. `lost` is told of a model whose copy another board has taken."""
        while True:
            for _ in range(REFRESH_RENEWALS):
                await asyncio.sleep(placing.RENEW_SECONDS)
                for model in await self.claims.renew():
                    await lost(model)
            try:
                await self._watch.refresh()
            except ServerError as error:
                log.warning("placement not read error=%s", error)

    async def announce(self, state: BoardState) -> None:
        """Now and then, and when something has become other than it was said."""
        is_loading = any(one.state == LOADING for one in state.models)
        news = tuple((one.model, one.state, one.num_in_hand > 0, one.pin, one.reason) for one in state.models)
        age = state.sent_at - self._announced_at
        if news == self._announced and age < (PROGRESS_SECONDS if is_loading else placing.SAY_SECONDS):
            return
        self._announced, self._announced_at = news, state.sent_at
        try:
            await placing.announce(self._nc, state)
        except PublishError as error:
            self._unheard_at = time.monotonic()
            self._announced = ()
            log.warning("not announced error=%s", error)

    async def leave(self) -> None:
        """Takes back what it said, unless another board says it now."""
        await self.claims.let_all_go()
        if self._other(self.placement()) is not None:
            return
        try:
            await placing.withdraw(self._nc, self._board)
        except PublishError as error:
            log.info("not withdrawn error=%s: what it said expires", error)
