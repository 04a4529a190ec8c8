"""A log that reads as a process's life, and that no stranger's messages can flood."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable

MAX_LINES = 10
"""Of one kind of warning …"""
WINDOW_SECONDS = 10.0
"""… in so long; the rest is counted."""
MAX_KINDS = 1024
TURN_SIGNS = "→←↻↷⊘!"
"""With what a line about one turn begins."""
_LINE_OF_A_TURN = re.compile(rf"\d\d:\d\d:\d\d I \S+ [{TURN_SIGNS}]")


def set_up_logging(level: str = "INFO") -> None:
    """A line an event: time, level, module, what happened and its keys. No user text at INFO and above."""
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname).1s %(name)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(FloodFilter())
        handler.addFilter(_is_wanted)
    # nats-py logs what we log ourselves, with tracebacks; uvicorn under a name that reads as an error.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def is_shown(line: str) -> bool:
    """Whether a line of a child's log is to be passed on: as `set_up_logging` decides it for one of our own."""
    return _LINE_OF_A_TURN.match(line) is None or not _is_in_the_background()


def _is_wanted(record: logging.LogRecord) -> bool:
    """Not each turn's lines where somebody chats in the same terminal, or watches a table."""
    is_of_a_turn = record.levelno == logging.INFO and str(record.msg).startswith(tuple(TURN_SIGNS))
    return not is_of_a_turn or not _is_in_the_background()


def _is_in_the_background() -> bool:
    """Of a terminal; a file or a pipe is there for all lines."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) != os.getpgrp()
    except (OSError, ValueError):
        return False


class FloodFilter(logging.Filter):
    """Lets pass so many warnings of one kind in a window, and tells with the next one how many it left out.

    A warning may be said for each message of a stranger's; a card of 32 GB is full after 100 million of them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}
        """When the window of a kind began, and how many came in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is told; the first one of a window is given the number of those left out before."""
        if record.levelno < logging.WARNING:
            return True
        kind = record.name, str(record.msg)
        now = self._clock()
        began_at, num = self._windows.get(kind, (now, 0))
        left_out = 0
        if now - began_at >= WINDOW_SECONDS:
            left_out, began_at, num = max(0, num - MAX_LINES), now, 0
        if len(self._windows) >= MAX_KINDS:
            self._windows.clear()
        self._windows[kind] = began_at, num + 1
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it before)", ()
        return num < MAX_LINES
