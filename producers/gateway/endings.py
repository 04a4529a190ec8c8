"""How a conversation may end that is to be answered. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from broker.messages import Message


def to_be_answered(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Without the assistant's that say nothing at its end: there are clients that send an empty answer back, to get
    another."""
    found = [*messages]
    while len(found) > 1 and _says_nothing(found[-1]):
        found.pop()
    return tuple(found)


def _says_nothing(message: Message) -> bool:
    return message.role == "assistant" and not (message.content.strip() or message.tool_calls)
