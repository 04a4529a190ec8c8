"""What reading and storing need of a connection to NATS: nats-py's client is one, and a test's need not be."""

from __future__ import annotations

from typing import Protocol

from nats.aio.msg import Msg


class Messages(Protocol):
    """A subscription, of which the next message is waited for."""

    async def next_msg(self, timeout: float) -> Msg:
        """The next message; raises TimeoutError where none came within so many seconds."""

    async def unsubscribe(self) -> None:
        """No more of it is wanted."""


class Wire(Protocol):
    """A connection, as far as messages are stored and read by it."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will come of it."""

    @property
    def max_payload(self) -> int:
        """The most bytes of a message that the server takes, headers counted."""

    def new_inbox(self) -> str:
        """A subject of our own, for answers."""

    async def request(
        self, subject: str, payload: bytes, timeout: float, *, headers: dict[str, str] | None = None
    ) -> Msg:
        """The first answer; raises nats.errors.Error and TimeoutError."""

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Sends a message, with the subject that answers go to."""

    async def subscribe(self, subject: str) -> Messages:
        """Messages of a subject from now on."""
