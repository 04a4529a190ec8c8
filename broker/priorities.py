"""The priority classes of turns, and nowhere else by name: part of a turn's subject, and a consumer of its queue each.

Another class is a name more in `Priority`, and what workers do for it: `workers/queue/pulling.py` (whose turn is taken
next) and `workers/engine/` (who gives a slot to whom).
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from broker.errors import InvalidName

Priority = Literal["interactive", "batch"]

INTERACTIVE: Final = "interactive"
"""Somebody waits for the answer."""
BATCH: Final = "batch"
"""Nobody does: it may be preempted, and has its share all the same."""

PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""All of them, the most urgent first."""
DEFAULT_PRIORITY: Priority = INTERACTIVE
"""Of a turn whose producer names none."""


def named(name: str) -> Priority:
    """The class of that name; raises InvalidName."""
    for one in PRIORITIES:
        if one == name:
            return one
    raise InvalidName("priority", name)
