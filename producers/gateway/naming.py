"""Which model a request means, and which conversation its turn is of. Pure: no gateway has to remember any."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from broker.conversations import name_of
from broker.errors import InvalidName
from broker.messages import Message
from broker.subjects import token

LATEST = ":latest"


def meant(name: str, known: Mapping[str, str]) -> str:
    """Which model or policy is meant: the one that is known by the name, also without `:latest`, in other case, or with
    other signs between its letters and digits: `qwen2.5-coder:0.5b` is `qwen2-5-coder-0-5b`. Where none is, the name
    without `:latest`."""
    if (found := known.get(name)) is not None:
        return found
    plain = name[: -len(LATEST)] if name.lower().endswith(LATEST) else name
    return next((of for one, of in known.items() if _letters(one) == _letters(plain)), plain)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.casefold())


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
