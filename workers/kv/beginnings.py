"""What conversations begin with that others may begin with, too: system messages and tools. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import takewhile

import msgspec

from broker.messages import Message, Remembered, Turn
from workers.prompts.besides import given_besides, offered

MIN_CHARACTERS = 1024
"""Of system messages and tools together: less is computed sooner than it is asked for."""
MAX_KNOWN = 1000
"""Beginnings that a worker knows it has seen."""


def beginning_of(turn: Turn) -> str | None:
    """The name of what the turn's conversation begins with, in the place of a conversation's; None behind an answer, as
    the conversation is known by its own name then, and for what is too short to be worth a transfer."""
    if turn.raw or turn.continuations or any(one.role == "assistant" for one in turn.messages):
        return None
    system = _system(turn.messages)
    if len(msgspec.json.encode((system, offered(turn)))) < MIN_CHARACTERS:
        return None
    return _name(system, given_besides(turn))


def beginning_in(remembered: Remembered) -> str | None:
    """The name of what a conversation that is remembered begins with, if it is long enough: of its tools nobody knows
    that any more. None for one that begins with nothing of the kind."""
    system = _system(remembered.messages)
    is_short = len(msgspec.json.encode(system)) < MIN_CHARACTERS and not remembered.given_besides
    return None if is_short else _name(system, remembered.given_besides)


def _system(messages: Iterable[Message]) -> list[str]:
    return [one.content for one in takewhile(lambda one: one.role == "system", messages)]


def _name(system: list[str], given_besides: str) -> str:
    told = msgspec.json.encode((system, given_besides))
    return f"begins-{hashlib.sha256(told).hexdigest()[:32]}"


class Beginnings:
    """Those that a worker has seen: it computed them or fetched them, and asks nobody for them again."""

    def __init__(self) -> None:
        """None so far."""
        self._seen: dict[str, None] = {}

    def is_new(self, client: str, name: str) -> bool:
        """Whether that client's beginning was not seen before; now it is. The longest ago seen are forgotten."""
        key = f"{client} {name}"
        is_new = key not in self._seen
        self._seen.pop(key, None)
        self._seen[key] = None
        if len(self._seen) > MAX_KNOWN:
            del self._seen[next(iter(self._seen))]
        return is_new
