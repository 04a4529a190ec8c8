"""What clients are asked for their rows of the table in docs/clients.md, and how they tell what came of it: each is
asked the same, greedily where it has a word for that, and a tool is called for once where it has a word for that.

Nothing but the standard library and pydantic, as each program runs in the clients' own environment. Those in
JavaScript are told what to ask by whoever starts them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel

CHAT = "Which city is the capital of Norway?"
STREAM = "Count from one to five, in words."
TOOLS = "How warm is it in the attic?"
SCHEMA = "Tell me of Oslo as JSON, with its name and its population."
CALLED_SCHEMA = f"Call it. {SCHEMA}"
"""Where the schema is a tool's."""
THOUGHTS = "Is seven a prime number?"
EMBEDDED = ["a cat on the roof", "a dog in the garden"]
CELSIUS = "31 degrees"
ROOMS = ["attic", "kitchen"]
MAX_TOKENS = 120
TEMPERATURE = 0.0
MAX_ROUNDS = 3
"""Of calls with their results, where a client lets a model go on."""

URL = os.environ.get("TURNPIKE_URL", "")
"""The gateway's."""
MODEL = os.environ.get("TURNPIKE_MODEL", "")
EMBEDDER = os.environ.get("TURNPIKE_EMBEDDER", "")
"""A model of embeddings, where one is served, and where."""
EMBEDDER_URL = os.environ.get("TURNPIKE_EMBEDDER_URL", "")


class City(BaseModel):
    """A city, and how many live in it."""

    name: str
    population: int


NAME, DESCRIPTION = "read_temperature", "Measures how warm a room is."
ROOM: dict[str, Any] = {
    "type": "object",
    "properties": {"room": {"type": "string", "enum": ROOMS}},
    "required": ["room"],
}
FUNCTION: dict[str, Any] = {"name": NAME, "description": DESCRIPTION, "parameters": ROOM}
TOOL: dict[str, Any] = {"type": "function", "function": FUNCTION}
"""As OpenAI's chats have it."""
ASKED: Mapping[str, Any] = {
    "chat": CHAT,
    "stream": STREAM,
    "tools": TOOLS,
    "schema": SCHEMA,
    "thoughts": THOUGHTS,
    "embedded": EMBEDDED,
    "celsius": CELSIUS,
    "rooms": ROOMS,
    "name": NAME,
    "description": DESCRIPTION,
    "max_tokens": MAX_TOKENS,
    "temperature": TEMPERATURE,
}
"""For programs that are not in Python."""


def read_temperature(room: str) -> str:
    """Measures how warm a room is.

    Args:
        room: which room: attic or kitchen
    """
    return f"It is {CELSIUS} in the {room}."


def question(text: str) -> list[Any]:
    """The messages of a conversation that begins, as all APIs have them."""
    return [{"role": "user", "content": text}]


def is_city(found: Any) -> bool:
    """Whether it is what the schema asks for: its fields, or an object of its class."""
    fields = found.model_dump() if isinstance(found, BaseModel) else found
    return isinstance(fields["name"], str) and isinstance(fields["population"], int)


def is_stream(pieces: Iterable[str]) -> bool:
    """Whether a text came in more than one piece."""
    return len([one for one in pieces if one]) > 1


def told(answer: str | None, thoughts: str | None) -> str | bool:
    """Of a request to think: a model that has no thoughts answers all the same."""
    return ("yes" if thoughts else "taken") if answer else False


def are_vectors(found: Any) -> bool:
    """Whether each text has a vector of numbers."""
    return len(found) == len(EMBEDDED) and all(len(one) > 1 and isinstance(one[0], float) for one in found)


def tell(package: str, form: str = "", **features: Callable[[], bool | str]) -> None:
    """Tries each feature and prints what the client can as a line of JSON, which tests/clients/running.py reads.
    `form` tells how it was used, where there are several ways."""
    name = f"{package} {version(package)}"
    if not EMBEDDER:
        features.pop("embeddings", None)
    found = {feature: _came(work) for feature, work in features.items()}
    print(json.dumps({"client": f"{name}, {form}" if form else name, "features": found}))  # noqa: T201


def _came(work: Callable[[], bool | str]) -> str:
    """`yes`, another word, or why not."""
    try:
        came = work()
    except Exception as error:  # noqa: BLE001
        return f"no: {type(error).__name__}: {error}"[:500]
    return came if isinstance(came, str) else "yes" if came else "no: nothing came"
