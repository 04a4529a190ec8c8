"""Which conversation a request's turn is of. Pure: no gateway has to remember any."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from broker.conversations import name_of
from broker.errors import InvalidName
from broker.messages import Message
from broker.subjects import token


def conversation_of(said: str | None, history: Sequence[Message], place: int = 0) -> str:
    """Whose turn it is: as the header or the body says, else what the chain of its history up to the last answer says,
    so that no gateway has to remember any, and chats that begin alike are kept apart. Of several prompts of one
    request, `place` tells those apart that are said to be of one conversation."""
    if said and place:
        said = f"{said}\0{place}"
    return _token(said) or name_of(history)


def beginning_of(said: str | None, history: Sequence[Message]) -> str:
    """The same for all turns of a conversation, if also for others that begin alike: equal models are chosen by it."""
    first = next((index for index, one in enumerate(history) if one.role == "user"), 0)
    return _token(said) or name_of(history[: first + 1])


def _token(said: str | None) -> str | None:
    if not said:
        return None
    try:
        return token(said, "conversation")
    except InvalidName:  # any text is a name to an API
        return hashlib.sha256(f"said\0{said}".encode()).hexdigest()[:32]
