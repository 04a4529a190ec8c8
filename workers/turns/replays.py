"""Readers that missed something of an answer: told again what is stored of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import codec, subjects
from broker.errors import InvalidMessage, InvalidName, ServerError
from broker.messages import Replay, ReplayRequest
from workers.turns.ports import TurnStore

REPLAY_MARGIN_BYTES = 4096
"""Of a message's room, for what is around the replies in it."""
_REPLY_BYTES = 8
"""Around each reply."""

log = logging.getLogger(__name__)


class Replays:
    """Answers readers' requests from `start` to `stop`; each is answered by one of all workers."""

    def __init__(self, nc: NatsConnection, store: TurnStore) -> None:
        self._nc = nc
        self._store = store
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """From now on requests are answered."""
        self._subscription = await self._nc.subscribe(subjects.ALL_REPLAYS, queue="workers", cb=self._on_request)

    async def stop(self) -> None:
        """No more of them are. Raises nats.errors.Error."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _on_request(self, message: Msg) -> None:
        try:
            client, turn = subjects.parse_replay(message.subject)
            request = codec.decode(message.data, ReplayRequest, message.headers)
            stored = await self._store.read_replies(client, turn)
        except (InvalidName, InvalidMessage, ServerError) as error:
            log.warning("replay not answered subject=%r error=%s", message.subject[:200], error)
            return
        wanted = [one.payload for one in stored if one.reply.index >= request.index]
        sent = fitting(wanted, self._nc.max_payload - REPLAY_MARGIN_BYTES)
        with contextlib.suppress(nats.errors.Error):
            await message.respond(codec.encode(Replay(sent, len(sent) == len(wanted))))


def fitting(payloads: Iterable[bytes], num_bytes: int) -> tuple[bytes, ...]:
    """The first of the payloads, as many as fit into so many bytes."""
    sent: list[bytes] = []
    for payload in payloads:
        num_bytes -= len(payload) + _REPLY_BYTES
        if num_bytes < 0:
            break
        sent.append(payload)
    return tuple(sent)
