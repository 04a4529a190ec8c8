"""Answers that clients ask to be kept, in the NATS KV bucket ANSWERS: for a day, and as long as there is room for them.
Each is its client's alone, by the subject that it lies on."""

from __future__ import annotations

import logging
import math
import time

from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, publishing, subjects
from broker.errors import InvalidMessage, PayloadTooLarge, PublishError
from broker.messages.kept import Kept

KEEP_SECONDS = 2.0
"""An answer's end does not wait for longer until it is kept."""
REFUSED_SECONDS = 60.0
"""For so long a server that did not take one is not asked again: it, or its accounts, are of an earlier release."""

log = logging.getLogger(__name__)


class KeptAnswers:
    """All of them, as one process writes and reads them."""

    def __init__(self) -> None:
        self._refused_at = -math.inf

    async def keep(self, nc: NatsConnection, client: str, answer: str, kept: Kept) -> bool:
        """Whether it was kept: it is not where it is too large, or the server has no such bucket."""
        if time.monotonic() - self._refused_at < REFUSED_SECONDS:
            return False
        try:
            await publishing.publish(nc, subjects.kept(client, answer), codec.encode(kept), timeout=KEEP_SECONDS)
        except PayloadTooLarge:
            return False
        except PublishError as error:
            self._refused_at = time.monotonic()
            log.warning("! answers are not kept: %s", error)
            return False
        return True

    async def read(self, nc: NatsConnection, client: str, answer: str) -> Kept | None:
        """The answer, as long as it is kept. Raises ServerError, InvalidName."""
        stored = await jetstream.last_stored(nc, subjects.KV_ANSWERS, subjects.kept(client, answer))
        if stored is None or not stored.payload:
            return None
        try:
            return codec.decode(stored.payload, Kept, stored.headers)
        except InvalidMessage:  # of a later release
            return None

    async def forget(self, nc: NatsConnection, client: str, answer: str) -> None:
        """From now on it is not kept. Raises PublishError, InvalidName."""
        headers = {jetstream.KV_OPERATION: jetstream.KV_DELETED}
        await publishing.publish(nc, subjects.kept(client, answer), b"", headers=headers)
