"""A house of lamps for the clients' programs: its tools, what is asked of it, and an account of what was called.

Nothing but the standard library, as each program runs in the clients' own environment.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from typing import Any

ROOMS = ["kitchen", "attic", "workshop"]
MAX_ROUNDS = 5
"""Answers to one request, at most."""
MAX_TOKENS = 120
SYSTEM = "You control the lamps of a house. When a tool has told you its result, answer in one sentence."
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("Switch on the lamp in the kitchen.", "switch_lamp", {"room": "kitchen", "on": True}),
    ("How warm is it in the attic?", "read_temperature", {"room": "attic"}),
    ("Switch off the lamp in the workshop.", "switch_lamp", {"room": "workshop", "on": False}),
    ("How warm is it in the workshop?", "read_temperature", {"room": "workshop"}),
]
"""What is asked, one after the other in one conversation, and the call that is right."""

_ROOM = {"type": "string", "enum": ROOMS, "description": "which room"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "switch_lamp",
            "description": "Switches the lamp of a room on or off.",
            "parameters": {
                "type": "object",
                "properties": {"room": _ROOM, "on": {"type": "boolean", "description": "true is on"}},
                "required": ["room", "on"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "read_temperature",
            "description": "Measures how warm a room is, in degrees Celsius.",
            "parameters": {"type": "object", "properties": {"room": _ROOM}, "required": ["room"]},
        },
    },
]
"""For the clients that make no schemas of functions."""


class House:
    """Lamps that remember what they were told, and thermometers."""

    def __init__(self) -> None:
        self.lamps = {"kitchen": False, "attic": False, "workshop": True}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        """What was really called, in its order."""

    def switch_lamp(self, room: str, on: bool) -> str:
        """Switches the lamp of a room on or off.

        Args:
            room: which room: kitchen, attic or workshop
            on: true is on
        """
        self.calls.append(("switch_lamp", {"room": room, "on": on}))
        if room not in self.lamps:
            return f"error: there is no room {room}"
        self.lamps[room] = on
        return f"the lamp in the {room} is {'on' if on else 'off'}"

    def read_temperature(self, room: str) -> str:
        """Measures how warm a room is, in degrees Celsius.

        Args:
            room: which room: kitchen, attic or workshop
        """
        self.calls.append(("read_temperature", {"room": room}))
        found = {"kitchen": 21.5, "attic": 31.0, "workshop": 17.0}.get(room)
        return f"error: there is no room {room}" if found is None else json.dumps({"celsius": found})

    def run(self, name: str, arguments: str) -> str:
        """A call as the API has it."""
        if name not in ("switch_lamp", "read_temperature"):
            return f"error: there is no tool {name}"
        try:
            return str(getattr(self, name)(**json.loads(arguments)))
        except (TypeError, ValueError) as error:
            return f"error: {error}"


class Account:
    """What one client did: printed as a line of JSON, which tests/clients/running.py reads."""

    def __init__(self, package: str) -> None:
        self.house = House()
        self._found: dict[str, Any] = {"client": f"{package} {version(package)}", "requests": []}
        self._num_calls = 0

    def note(self, request: str, num_answers: int, text: str) -> None:
        """A request that has been answered: over so many answers, the last of which said that."""
        calls = self.house.calls[self._num_calls :]
        self._num_calls = len(self.house.calls)
        self._found["requests"].append({"request": request, "answers": num_answers, "calls": calls, "text": text})

    def tell(self) -> None:
        """To whoever started the program."""
        print(json.dumps(self._found | {"lamps": self.house.lamps}))  # noqa: T201


BASE_URL = os.environ.get("OPENAI_BASE_URL", "")
MODEL = os.environ.get("TURNPIKE_MODEL", "")
