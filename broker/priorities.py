"""The priority classes of turns, and nowhere else by name: part of a turn's subject, and a consumer of its queue each.
Beside them is a lane for turns that take no slot.

Another class is a name more in `Priority`, and what workers do for it: `workers/queue/pulling.py` (whose turn is taken
next) and `workers/engine/` (who gives a slot to whom).
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from broker.errors import InvalidName

Priority = Literal["interactive", "batch"]
Lane = Literal["interactive", "batch", "aside"]
"""What turns are pulled by: their priority, or that they take no slot."""

INTERACTIVE: Final = "interactive"
"""Somebody waits for the answer."""
BATCH: Final = "batch"
"""Nobody does: it may be preempted, and has its share all the same."""

PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""All of them, the most urgent first."""
ASIDE: Final = "aside"
"""Nothing is computed of them: they are answered beside the turns that have slots, however many wait for one."""
LANES: tuple[Lane, ...] = get_args(Lane)
"""The priorities, and that."""
DEFAULT_PRIORITY: Priority = INTERACTIVE
"""Of a turn whose producer names none."""


def named(name: str) -> Priority:
    """The class of that name; raises InvalidName."""
    for one in PRIORITIES:
        if one == name:
            return one
    raise InvalidName("priority", name)


def lane_of(kind: str, priority: Priority) -> Lane:
    """By which a turn of that kind is pulled, whatever its priority."""
    return ASIDE if kind == "prompt" else priority


def lane(name: str) -> Lane:
    """The lane of that name; raises InvalidName."""
    return ASIDE if name == ASIDE else named(name)
