"""Answers that clients ask to be kept, in the NATS KV bucket ANSWERS: for a day, and as long as there is room for them.
Each is its client's alone, by the subject that it lies on.

Each is kept with all that was said before it, so that it can be gone on from for its whole day. By a reference to the
answer before, it would live no longer than the first one of its conversation, unless all of them were written anew with
each turn. So a long conversation takes the more room with each of its answers: its client's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time

from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, publishing, subjects
from broker.errors import InvalidMessage, NotStored, PayloadTooLarge, PublishError
from broker.messages.kept import Kept
from broker.topology import KEPT_SECONDS, MAX_PAYLOAD_BYTES, Limits

KEEP_SECONDS = 2.0
"""An answer's end does not wait for longer until it is kept."""
REFUSED_SECONDS = 60.0
"""For so long a server that did not take one is not asked again: it, or its accounts, are of an earlier release."""
ENTRY_BYTES = 256
"""About: what the server counts of an entry besides what is in it."""
MARK_SECONDS = 1
"""What takes an entry back is no longer there itself."""

log = logging.getLogger(__name__)


class Share:
    """What one client has kept, the oldest first, as this process has seen it. No clock of its own."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: dict[str, tuple[int, float]] = {}
        self._num_bytes = 0

    def add(self, answer: str, num_bytes: int, now: float) -> None:
        """It is the youngest."""
        self.drop(answer)
        self._entries[answer] = (num_bytes, now)
        self._num_bytes += num_bytes

    def drop(self, answer: str) -> None:
        """It is not kept, or not any more."""
        num_bytes, _ = self._entries.pop(answer, (0, 0.0))
        self._num_bytes -= num_bytes

    def surplus(self, now: float) -> str | None:
        """The oldest, where all of them are too much; those whose day is over are forgotten by themselves."""
        while self._entries:
            answer, (_, kept_at) = next(iter(self._entries.items()))
            if now - kept_at < KEPT_SECONDS:
                return answer if self._num_bytes > self._max_bytes else None
            self.drop(answer)
        return None


class KeptAnswers:
    """All of them, as one process writes and reads them. Where a client has as much as its share of the room, its own
    oldest go, and nobody else's."""

    def __init__(self, num_clients: int = 1) -> None:
        self._refused_at = -math.inf
        self._share_bytes = max(Limits().max_kept_bytes // num_clients, MAX_PAYLOAD_BYTES + ENTRY_BYTES)
        self._shares: dict[str, Share] = {}

    async def keep(self, nc: NatsConnection, client: str, answer: str, kept: Kept) -> bool:
        """Whether it was kept: it is not where it is too large, or the server has no such bucket."""
        if time.monotonic() - self._refused_at < REFUSED_SECONDS:
            return False
        payload, share = codec.encode(kept), self._shares.setdefault(client, Share(self._share_bytes))
        if not publishing.fits(nc, payload):
            return False
        share.add(answer, len(payload) + ENTRY_BYTES, time.monotonic())
        try:
            await self._make_room(nc, client, share)
            await publishing.publish(nc, subjects.kept(client, answer), payload, timeout=KEEP_SECONDS)
        except PublishError as error:
            share.drop(answer)
            if not isinstance(error, PayloadTooLarge):
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
        subject, headers = subjects.kept(client, answer), {jetstream.KV_OPERATION: jetstream.KV_DELETED}
        try:
            brief = headers | {jetstream.MESSAGE_TTL: str(MARK_SECONDS)}
            await publishing.publish(nc, subject, b"", headers=brief)
        except NotStored as error:
            if error.code != jetstream.NO_TTL:
                raise
            await publishing.publish(nc, subject, b"", headers=headers)  # an earlier release has made the bucket
        if client in self._shares:
            self._shares[client].drop(answer)

    async def _make_room(self, nc: NatsConnection, client: str, share: Share) -> None:
        """What is too much goes, the oldest first; what that takes too long for, with the next answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEEP_SECONDS):
                while (oldest := share.surplus(time.monotonic())) is not None:
                    await self.forget(nc, client, oldest)
