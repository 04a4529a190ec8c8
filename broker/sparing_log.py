"""What is logged for each message of a stranger's is logged sparingly."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MAX_LINES = 10
"""Of one kind of warning …"""
WINDOW_SECONDS = 10.0
"""… in so long; the rest is counted."""
MAX_KINDS = 1024


class Sparing(logging.Filter):
    """Lets pass so many warnings of one kind in a window, and tells with the next one how many it left out.

    A warning may be said for each message of a stranger's; a card of 32 GB is full after 100 million of them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}
        """When the window of a kind began, and how many came in it."""

    def filter(self, record: logging.LogRecord) -> bool:
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
