"""Lines of standard input as they are typed or piped in, read beside the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from broker.process import interrupts_go_to

MAX_LINES_AHEAD = 16
PROMPT = "> "
GOES_ON = "\\"
"""At a line's end: the message goes on in the next one."""
HOW_TO_END = "^C again, or ^D, ends"


class Left(Exception):
    """^C twice at the prompt: whoever sits there wants to go."""


class Typist(Protocol):
    """Whoever types messages, or what pipes them in."""

    ended: asyncio.Event
    """Set as soon as there is no more to come, also while an answer does."""

    @property
    def is_a_terminal(self) -> bool:
        """Whether somebody is there to be asked."""

    async def message(self, is_pressed: bool = False) -> str | None:
        """The next message; None when there is none. Raises Left at the second ^C, where `is_pressed` the first."""

    async def question(self, text: str) -> str | None:
        """What is answered to it, by somebody who sees it; None at an end of input."""

    def drop_typed_ahead(self) -> list[str]:
        """Takes away what was typed and not read yet, and tells it; an end of input stays."""

    def listening(self) -> AbstractContextManager[None]:
        """While entered, an answer comes: what is typed is kept for the next message."""


class Keyboard:
    """What is typed or piped in, a line a message.

    Read by a daemon thread and past Python's own buffer, so that ^C at the prompt ends the program at once.
    """

    def __init__(self) -> None:
        self.lines: asyncio.Queue[str | None] = asyncio.Queue(maxsize=MAX_LINES_AHEAD)
        self.ended = asyncio.Event()
        # Closed from the start, it is None.
        self.is_a_terminal = sys.stdin is not None and sys.stdin.isatty()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    async def message(self, is_pressed: bool = False) -> str | None:
        """Lines up to the first one that does not go on; None at the end of input. Raises Left."""
        gathered: list[str] = []
        while (line := await self._line(PROMPT, is_pressed)) is not None:
            if not line.endswith(GOES_ON):
                return "\n".join([*gathered, line])
            gathered.append(line.removesuffix(GOES_ON))
        return "\n".join(gathered) or None

    async def question(self, text: str) -> str | None:
        """The line that is typed behind it."""
        _say(text)
        return await self.lines.get()

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

    @contextmanager
    def listening(self) -> Iterator[None]:
        """It listens always."""
        yield

    async def _line(self, prompt: str, is_pressed: bool) -> str | None:
        """Where somebody types it, a ^C throws away what was typed of it, as the terminal does; a second one raises
        Left."""
        _say(prompt)
        if not self.is_a_terminal:
            return await self.lines.get()
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def press() -> None:
            nonlocal is_pressed
            if is_pressed and not left.done():
                left.set_exception(Left())
                return
            is_pressed = True
            _say(f"\n[{HOW_TO_END}]\n{prompt}")

        typed = asyncio.ensure_future(self.lines.get())
        try:
            with interrupts_go_to(press):
                both: set[asyncio.Future[Any]] = {typed, left}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                left.result()
            return typed.result()
        finally:
            typed.cancel()
            left.cancel()

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


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
