"""What a board says of itself: whenever something has become other than it was said, and now and then."""

from __future__ import annotations

import logging

from nats.aio.client import Client as NatsConnection

from broker import placing
from broker.errors import PublishError
from broker.messages.boards import LOADING, BoardState
from broker.placing import SAY_SECONDS

PROGRESS_SECONDS = 0.5
"""How often it says how far a load is."""

log = logging.getLogger(__name__)


class Announcements:
    """A board's; what the server does not take is logged, and said again at the next round."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._said: tuple[object, ...] = ()
        self._said_at = float("-inf")

    async def say(self, state: BoardState) -> None:
        """How it is, if that is news or was not said for long."""
        is_loading = any(one.state == LOADING for one in state.models)
        news = tuple((one.model, one.state, one.num_in_hand > 0, one.pin, one.reason) for one in state.models)
        age = state.sent_at - self._said_at
        if news == self._said and age < (PROGRESS_SECONDS if is_loading else SAY_SECONDS):
            return
        self._said, self._said_at = news, state.sent_at
        try:
            await placing.announce(self._nc, state)
        except PublishError as error:
            self._said = ()
            log.warning("not announced error=%s", error)

    async def withdraw(self, board: str) -> None:
        """Takes it back."""
        try:
            await placing.withdraw(self._nc, board)
        except PublishError as error:
            log.info("not withdrawn error=%s: what it said expires", error)
