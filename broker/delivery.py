"""Turns as they are handed over: pulled, kept alive, then settled exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import jetstream
from broker.errors import NotReady
from broker.waiting import comes_before

# Behind the server's own expiry: a pull that was lost with its connection is given up after so long.
GRACE_SECONDS = 2.0
TAKE_BACK_SECONDS = 1.0

log = logging.getLogger(__name__)


class Delivery:
    """One hand-over of one turn. Settle it once: ack, hand_back, retry or forget."""

    def __init__(self, message: Msg) -> None:
        self._message = message
        self._settled = False
        meta = message.metadata
        self.subject: str = message.subject
        self.payload: bytes = message.data
        self.headers: Mapping[str, str] = message.headers or {}
        self.stream: str = meta.stream
        self.sequence: int = meta.sequence.stream
        self.num_delivered: int = meta.num_delivered
        self.num_pending: int = meta.num_pending
        self.stored_at: float = meta.timestamp.timestamp()
        """Seconds since the epoch, by the server's clock."""

    @property
    def is_settled(self) -> bool:
        """Whether it must not be settled again."""
        return self._settled

    async def ack(self, *, confirm: bool = True) -> None:
        """The turn has its end: it leaves the queue. Comes back when the server has said so, or after 2 s without."""
        self._settle()
        if not confirm:
            await self._message._client.publish(self._message.reply, jetstream.ACK)
            return
        try:
            # With the server's confirmation, as an ack lost on the wire would have the turn delivered again.
            await self._message._client.request(self._message.reply, jetstream.ACK, timeout=2)
        except (nats.errors.Error, TimeoutError):
            # A redelivery finds the turn's end and drops it: late, not wrong.
            log.warning("ack not confirmed subject=%s", self.subject)

    async def hand_back(self) -> None:
        """Not begun here: another worker may take it at once."""
        self._settle()
        await self._message._client.publish(self._message.reply, jetstream.NAK)

    def forget(self) -> None:
        """It is another worker's by now, who settles it: a word from here would have it delivered a third time."""
        self._settle()

    async def retry(self, delay: float) -> None:
        """It failed here in a way that may pass: it is delivered again after `delay` seconds."""
        self._settle()
        await self._message._client.publish(self._message.reply, jetstream.nak_after(delay))

    def _settle(self) -> None:
        assert not self._settled, f"{self.subject} settled twice"
        self._settled = True

    async def in_progress(self) -> None:
        """Tells the server that the turn is in work: its ack_wait begins anew."""
        if not self._settled:
            await self._message._client.publish(self._message.reply, jetstream.IN_PROGRESS)


class Puller:
    """Pulls turns from one consumer, one at a time.

    A pull is left to expire or taken back at the server, and never merely given up: the server would hand a turn to it,
    and it would be lost for a whole ack_wait.
    """

    def __init__(self, nc: NatsConnection, stream: str, consumer: str) -> None:
        self._nc = nc
        self._name = f"{stream}/{consumer}"
        self._next = jetstream.api_subject(jetstream.NEXT_MESSAGE, stream, consumer)
        self._inbox = nc.new_inbox()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Listens for what is pulled."""
        self._subscription = await self._nc.subscribe(self._inbox)

    async def stop(self) -> None:
        """Stops listening: what an open pull brings then comes back to the queue after its ack_wait."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def pull(self, expires: float, closing: asyncio.Event | None = None) -> Delivery | None:
        """The next turn, or None when none came within `expires` seconds; 0 asks without waiting. Once `closing` is
        set, an open pull is taken back, and was the last one: what the server had handed over by then still comes."""
        assert self._subscription is not None
        if self._subscription.pending_msgs == 0:
            await self._nc.publish(self._next, jetstream.pull_request(expires), reply=self._inbox)
        listening = asyncio.ensure_future(self._subscription.next_msg(timeout=expires + GRACE_SECONDS))
        try:
            if closing is not None and not await comes_before(listening, closing):
                await self._take_back(self._subscription, listening)
                if not listening.done():
                    return None
            message = await listening
        except (nats.errors.TimeoutError, TimeoutError):
            return None
        finally:
            listening.cancel()
        if message.reply:
            # A turn, whatever its producer wrote into its headers: what the server itself says wants no answer.
            return Delivery(message)
        status = (message.headers or {}).get("Status", "")
        reason = (message.headers or {}).get("Description", "")
        match status:
            case "404" | "408":
                return None
            case "503":
                raise NotReady(f"consumer {self._name}")
            case "409" if "Deleted" in reason:
                raise NotReady(f"consumer {self._name}")
            case _:
                # Leadership changed, server shutting down, too many waiting pulls: worth asking again, not at once.
                log.warning("pull refused consumer=%s status=%s reason=%s", self._name, status, reason)
                await asyncio.sleep(1)
                return None

    async def _take_back(self, subscription: Subscription, listening: asyncio.Future[Msg]) -> None:
        """Comes back when the server hands nothing over any more, and `listening` has what it had. A server that is
        away is not waited for: the pull expires there."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            async with asyncio.timeout(TAKE_BACK_SECONDS):
                await subscription.drain()  # type: ignore[no-untyped-call]
                return
        await asyncio.wait({listening})
