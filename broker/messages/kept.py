"""An answer that is kept for a day, with the conversation that it ended, so that another request can go on from it."""

from __future__ import annotations

from msgspec import Struct

from broker.messages.turns import Message


class Kept(Struct, frozen=True):
    """What a gateway keeps of one answer, for any gateway."""

    messages: tuple[Message, ...]
    """All that was said, the answer included."""
    told: bytes
    """The answer as its client was told it, in its dialect's words."""
