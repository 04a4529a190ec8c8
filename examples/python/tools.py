"""Tools for a model: a house with lamps and a thermometer in each room. Every function here is one that may be called.

    turnpike chat tiny --tools tools.py

A real house would ask its lamps; these only remember what they were told.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

Room = Literal["kitchen", "attic", "workshop"]

_brightness: dict[str, int] = {"kitchen": 0, "attic": 0, "workshop": 60}
_celsius: dict[str, float] = {"kitchen": 21.5, "attic": 31.0, "workshop": 17.0}


def switch_lamp(room: Room, on: bool, percent: Annotated[int, Meta(ge=1, le=100)] = 100) -> str:
    """Switches the lamp of a room on or off.

    Args:
        room: where the lamp is
        on: whether it is to be lit
        percent: how bright, where it is
    """
    _brightness[room] = percent if on else 0
    return f"the lamp in the {room} is {f'on at {percent} %' if on else 'off'}"


async def read_temperature(room: Room) -> str:
    """How warm a room is.

    Args:
        room: where to measure
    """
    return f"it is {_celsius[room]} °C in the {room}"
