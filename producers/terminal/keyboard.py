"""Lines of standard input as they are typed, read beside the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

MAX_LINES_AHEAD = 16


class Keyboard:
    """What is typed or piped in: `lines`, then None; `ended` is set as soon as there is no more to come.

    Read by a daemon thread and past Python's own buffer, so that ^C at the prompt ends the program at once.
    """

    def __init__(self) -> None:
        self.lines: asyncio.Queue[str | None] = asyncio.Queue(maxsize=MAX_LINES_AHEAD)
        self.ended = asyncio.Event()
        # Closed from the start, it is None.
        self.is_a_terminal = sys.stdin is not None and sys.stdin.isatty()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def drop_typed_ahead(self) -> list[str]:
        """Takes away what was typed and not read yet, and tells it; an end of input stays."""
        found: list[str] = []
        while not self.lines.empty():
            line = self.lines.get_nowait()
            if line is None:
                self.lines.put_nowait(None)
                break
            found.append(line)
        return found

    def _read(self) -> None:
        rest = b""
        try:
            while data := self._data():
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    self._put(line.decode("utf-8", "replace"))
            self._loop.call_soon_threadsafe(self.ended.set)
            for last in (*([rest.decode("utf-8", "replace")] if rest else []), None):
                self._put(last)
        except RuntimeError:
            return  # the loop is closed: nobody reads on

    def _data(self) -> bytes:
        """What comes next; nothing at the end, or where no more can be read."""
        try:
            return os.read(sys.stdin.fileno(), 65536)
        except (OSError, ValueError, AttributeError):
            return b""

    def _put(self, line: str | None) -> None:
        asyncio.run_coroutine_threadsafe(self.lines.put(line), self._loop).result()
