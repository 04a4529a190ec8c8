"""Which conversation a request's turn is of. Pure: no gateway has to remember any."""

from __future__ import annotations

import hashlib

from broker.conversations import name_of
from broker.errors import InvalidName
from broker.subjects import token
from producers.gateway.dialect import TurnRequest


def conversation_of(request: TurnRequest, header: str | None) -> str:
    """Whose turn it is: as the header or the body says, else what the chain of its history up to the last answer says,
    so that no gateway has to remember any, and chats that begin alike are kept apart."""
    return _said(request, header) or name_of(request.history)


def beginning_of(request: TurnRequest, header: str | None) -> str:
    """The same for all turns of a conversation, if also for others that begin alike: equal models are chosen by it."""
    history = request.history
    first = next((index for index, one in enumerate(history) if one.role == "user"), 0)
    return _said(request, header) or name_of(history[: first + 1])


def _said(request: TurnRequest, header: str | None) -> str | None:
    said = header or request.conversation
    if not said:
        return None
    try:
        return token(said, "conversation")
    except InvalidName:  # any text is a name to an API
        return hashlib.sha256(f"said\0{said}".encode()).hexdigest()[:32]
