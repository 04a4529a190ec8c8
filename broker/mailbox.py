"""The messages of one subscription until somebody reads them, for a fraction of what nats-py's own waiting costs.

nats-py makes a task, a UUID and a timeout for each message that is waited for. Here a message is put down as it is
parsed, and whoever waits is woken.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Self

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol.command import unsub_cmd

from broker.waiting import Bell

MAX_READ_AT_ONCE = 64
"""Messages, until others have their turn: a reader that catches up is not to hold up the whole process."""

log = logging.getLogger(__name__)


class Mailbox:
    """What came on one subject. It holds so many messages and bytes; what comes beyond that is dropped.

    For nats-py it is the future of a subscription: that is given its messages at once, without a queue and a task.
    """

    def __init__(self, nc: NatsConnection, max_messages: int, max_bytes: int) -> None:
        self._nc = nc
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[Msg] = deque()
        self._num_bytes = 0
        self._num_read_at_once = 0
        self._subscription: Subscription | None = None
        self._bell = Bell()

    @classmethod
    async def subscribed(cls, nc: NatsConnection, subject: str, *, max_messages: int, max_bytes: int) -> Self:
        """One that takes the subject's messages from now on. Raises nats.errors.Error."""
        found = cls(nc, max_messages, max_bytes)
        found._subscription = subscription = await nc.subscribe(subject, future=found)  # type: ignore[arg-type]
        # nats-py cancels these when the connection is closed for good: nobody is to wait for what cannot come.
        subscription._pending_next_msgs_calls[subject] = found
        return found

    def cancelled(self) -> bool:
        """Whether nats-py may drop what comes: never, for that it is unsubscribed."""
        return False

    def set_result(self, message: Msg) -> None:
        """Takes a message, as nats-py gives it."""
        size = len(message.data)
        if len(self._messages) >= self._max_messages or self._num_bytes + size > self._max_bytes:
            log.info("messages dropped, they come faster than they are taken subject=%s", message.subject)
            return
        self._messages.append(message)
        self._num_bytes += size
        self._bell.ring()

    def cancel(self) -> None:
        """Takes nats-py's word that the connection is closed for good."""
        self._bell.ring()

    async def next_msg(self, timeout: float) -> Msg:
        """The next message; raises TimeoutError where none came within so many seconds, and ConnectionClosedError where
        none will come any more."""
        if not self._messages:
            self._num_read_at_once = 0
            if not self._is_over:
                await self._bell.rung(timeout)
        elif self._num_read_at_once < MAX_READ_AT_ONCE:
            self._num_read_at_once += 1
        else:
            self._num_read_at_once = 0
            await asyncio.sleep(0)
        if not self._messages:
            raise nats.errors.ConnectionClosedError if self._is_over else nats.errors.TimeoutError
        message = self._messages.popleft()
        self._num_bytes -= len(message.data)
        return message

    @property
    def _is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._nc.is_closed or self._subscription is None

    async def unsubscribe(self) -> None:
        """No more of it is wanted. The server hears of it with what is sent next, at the latest the next ping: a write
        of its own for each turn would cost more than what may still come."""
        self._bell.close()
        if self._subscription is None:
            return
        subscription, self._subscription = self._subscription, None
        self._bell.ring()  # nobody is to wait for what cannot come
        self._nc._remove_sub(subscription._id)
        if self._nc.is_connected:
            await self._nc._send_command(unsub_cmd(subscription._id, 0))
