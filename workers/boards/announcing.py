"""How a board says how it is: now and then, and when something has become other than it was said."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from nats.aio.client import Client as NatsConnection

from broker import placing
from broker.errors import PublishError
from broker.messages.boards import LOADING, BoardState
from broker.placing import SAY_SECONDS

PROGRESS_SECONDS = 0.5
"""How often it says how far a load is."""

log = logging.getLogger(__name__)


class Announcer:
    """One board's. What the server does not take is logged, and said again."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._announced: tuple[object, ...] = ()
        self._announced_at = float("-inf")

    async def announce(self, state: BoardState) -> None:
        """Says it, where it is news or time to."""
        is_loading = any(one.state == LOADING for one in state.models)
        news = tuple((one.model, one.state, one.num_in_hand > 0, one.pin, one.reason) for one in state.models)
        age = state.sent_at - self._announced_at
        if news == self._announced and age < (PROGRESS_SECONDS if is_loading else SAY_SECONDS):
            return
        self._announced, self._announced_at = news, state.sent_at
        try:
            await placing.announce(self._nc, state)
        except PublishError as error:
            self._announced = ()
            log.warning("not announced error=%s", error)

    async def withdraw(self, board: str, began_at: float, said: Iterable[BoardState]) -> None:
        """Takes back what the board that began then has said, unless another one is it by now, as was `said`."""
        if any(state.board == board and state.started_at != began_at for state in said):
            return
        try:
            await placing.withdraw(self._nc, board)
        except PublishError as error:
            log.info("not withdrawn error=%s: what it said expires", error)
