"""What a client is asked for its row of the table in docs/clients.md, and an account of what came of it.

Nothing but the standard library, as each program runs in the clients' own environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

CHAT = "Which city is the capital of Norway?"
STREAM = "Count from one to five, in words."
TOOLS = "How warm is it in the attic?"
SCHEMA = "Tell me of Oslo as JSON, with its name and its population."
THOUGHTS = "Is seven a prime number?"
EMBEDDED = ["a cat on the roof", "a dog in the garden"]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 40}, "population": {"type": "integer"}},
    "required": ["name", "population"],
    "additionalProperties": False,
}
ROOM: dict[str, Any] = {
    "type": "object",
    "properties": {"room": {"type": "string", "enum": ["attic", "kitchen"]}},
    "required": ["room"],
}
CELSIUS = "31 degrees"
MAX_TOKENS = 120
MAX_ROUNDS = 5
"""Of calls with their results, where a client lets a model go on."""

URL = os.environ.get("TURNPIKE_URL", "")
"""The gateway's."""
MODEL = os.environ.get("TURNPIKE_MODEL", "")
EMBEDDER = os.environ.get("TURNPIKE_EMBEDDER", "")
"""A model of embeddings, where one is served, and where."""
EMBEDDER_URL = os.environ.get("TURNPIKE_EMBEDDER_URL", "")


def read_temperature(room: str) -> str:
    """Measures how warm a room is.

    Args:
        room: which room: attic or kitchen
    """
    return f"It is {CELSIUS} in the {room}."


def is_city(found: Any) -> bool:
    """Whether it is what the schema asks for."""
    return isinstance(found["name"], str) and isinstance(found["population"], int)


def is_stream(pieces: Iterable[str]) -> bool:
    """Whether a text came in more than one piece."""
    return len([one for one in pieces if one]) > 1


def told(answer: str | None, thoughts: str | None) -> str | bool:
    """Of a request to think: a model that has no thoughts answers all the same."""
    return ("yes" if thoughts else "taken") if answer else False


def are_vectors(found: Any) -> bool:
    """Whether each text has a vector of numbers."""
    return len(found) == len(EMBEDDED) and all(len(one) > 1 and isinstance(one[0], float) for one in found)


class Features:
    """What one client can: printed as a line of JSON, which tests/clients/running.py reads."""

    def __init__(self, package: str, form: str = "") -> None:
        """`form` tells how it was used, where there are several ways."""
        name = f"{package} {version(package)}"
        self._client = f"{name}, {form}" if form else name
        self._found: dict[str, str] = {}

    def attempt(self, feature: str, work: Callable[[], bool | str]) -> None:
        """Notes what came of it: `yes`, another word, or why not."""
        try:
            came = work()
        except Exception as error:  # noqa: BLE001
            self._found[feature] = f"no: {type(error).__name__}: {error}"[:500]
            return
        self._found[feature] = came if isinstance(came, str) else "yes" if came else "no: nothing came"

    def tell(self) -> None:
        """To whoever started the program."""
        print(json.dumps({"client": self._client, "features": self._found}))  # noqa: T201
