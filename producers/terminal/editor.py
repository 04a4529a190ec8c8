"""The line that is typed at a terminal: edited, with a history, over several lines, and completed."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import termios
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.filters import completion_is_selected
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from broker.process import at_an_end_by_force
from producers.terminal.keyboard import GOES_ON, HOW_TO_END, PROMPT, Left

CONTINUED = ". "
"""Before the further lines of a message."""
MAX_HISTORY_BYTES = 1024 * 1024
_ENTERS = (Keys.ControlM, Keys.ControlJ)
_ENDS = (Keys.ControlD, Keys.ControlAt)
"""^D, and as what it is read where it was typed while the terminal read by lines, between an answer and a message."""
_LFLAG, _CC = 3, 6

Words = Callable[[str], Sequence[str]]
"""What a word may become: of the text before it, all that may stand there; `["FILE"]` where a path may."""


class Editor:
    """A terminal at which somebody types messages. See `Typist` in keyboard.py for what it is asked."""

    is_a_terminal = True

    def __init__(self, history: Path | None = None, words: Words = lambda _: ()) -> None:
        """`history` is a file that keeps what was typed from one time to the next."""
        self.ended = asyncio.Event()
        self._fd = sys.stdin.fileno()
        self._input = create_input(sys.stdin)
        self._was_empty = False
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation=lambda width, line, wraps: " " * width if wraps else CONTINUED,
            history=_history(history),
            key_bindings=self._keys(),
            completer=_Words(words),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            reserve_space_for_menu=0,
            enable_suspend=True,
            input=self._input,
            # It is not asked where the cursor is: an answer that comes late would be typed into the next message.
            output=Vt100_Output(sys.stderr, _size, term=os.environ.get("TERM"), enable_cpr=False),
            color_depth=ColorDepth.from_env() or ColorDepth.DEPTH_4_BIT,  # none with NO_COLOR
        )

    async def message(self, is_pressed: bool = False) -> str | None:
        """What is typed until Enter, as one text; None at a ^D. A ^C clears it. Raises Left at the second one."""
        if self.ended.is_set() and not self._has_typed_ahead():
            return None
        before = termios.tcgetattr(self._fd)
        with at_an_end_by_force(lambda: termios.tcsetattr(self._fd, termios.TCSANOW, before)):
            while True:
                try:
                    text = await self._session.prompt_async(handle_sigint=False, set_exception_handler=False)
                    # What is no UTF-8 comes as surrogates, which no message can hold.
                    return text.encode(errors="surrogateescape").decode(errors="replace")
                except EOFError:
                    self.ended.set()
                    return None
                except KeyboardInterrupt:
                    if is_pressed and self._was_empty:
                        raise Left from None
                    is_pressed = True
                    if self._was_empty:
                        sys.stderr.write(f"[{HOW_TO_END}]\n")

    async def question(self, text: str) -> str | None:
        """The line that is typed behind it, by the terminal's own means: there a ^C is a signal."""
        if self.ended.is_set():
            return None
        loop, found = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def read() -> None:
            with suppress(OSError):
                data = os.read(self._fd, 4096)
                if not found.done():
                    found.set_result(data.decode("utf-8", "replace"))

        with self._input.detach(), _modes(self._fd, on=termios.ICANON | termios.ECHO):
            loop.add_reader(self._fd, read)
            sys.stderr.write(text)
            sys.stderr.flush()
            try:
                line = await found
            finally:
                loop.remove_reader(self._fd)
        if not line:
            self.ended.set()
        return str(line).rstrip("\n") if line else None

    def drop_typed_ahead(self) -> list[str]:
        """Takes away what was typed and not read yet, and tells it."""
        while select.select([self._fd], [], [], 0)[0] and not self._input.closed:
            self._take_keys()
        text = "".join("\n" if key.key in _ENTERS else key.data for key in get_typeahead(self._input))
        return [line for line in text.split("\n") if line]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """What is typed meanwhile is not shown, and is the beginning of the next message; a ^C stays a signal."""
        with _modes(self._fd, off=termios.ICANON | termios.ECHO), self._input.attach(self._take_keys):
            self._session.output.enable_bracketed_paste()
            self._session.output.flush()
            try:
                yield
            finally:
                self._session.output.disable_bracketed_paste()
                self._session.output.flush()
                store_typeahead(self._input, self._input.flush_keys())

    def _take_keys(self) -> None:
        keys = self._input.read_keys()
        for number, key in enumerate(keys):
            if key.key in _ENDS:
                self.ended.set()
                keys = keys[:number]
                break
        store_typeahead(self._input, keys)
        if self._input.closed:
            self.ended.set()

    def _has_typed_ahead(self) -> bool:
        """Whether a whole message was typed before the end."""
        keys = get_typeahead(self._input)
        store_typeahead(self._input, keys)
        return any(key.key in _ENTERS for key in keys)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter", filter=~completion_is_selected)
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.document.text_before_cursor.endswith(GOES_ON) and buffer.document.is_cursor_at_the_end_of_line:
                buffer.delete_before_cursor(len(GOES_ON))
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add(Keys.ControlAt)
        def _(event: KeyPressEvent) -> None:
            if not event.current_buffer.text:
                event.app.exit(exception=EOFError, style="class:exiting")

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            self._was_empty = not event.current_buffer.text
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

        return keys


class _Words(Completer):
    def __init__(self, words: Words) -> None:
        self._words = words
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        begun = before.rpartition(" ")[2]
        known = self._words(before.removesuffix(begun))
        if known == ["FILE"]:
            yield from self._paths.get_completions(Document(begun), complete_event)
        for word in known if known != ["FILE"] else ():
            if word.startswith(begun):
                yield Completion(word, start_position=-len(begun))


def _size() -> Size:
    columns, rows = os.get_terminal_size(sys.stderr.fileno())
    return Size(rows=rows or 24, columns=columns or 80)


@contextmanager
def _modes(fd: int, *, on: int = 0, off: int = 0) -> Iterator[None]:
    """While entered, the terminal has these of its local modes on and off."""
    before = termios.tcgetattr(fd)
    changed = termios.tcgetattr(fd)
    changed[_LFLAG] = (changed[_LFLAG] | on) & ~off
    if off & termios.ICANON:
        changed[_CC][termios.VMIN], changed[_CC][termios.VTIME] = 1, 0
    with at_an_end_by_force(lambda: termios.tcsetattr(fd, termios.TCSANOW, before)):
        try:
            termios.tcsetattr(fd, termios.TCSANOW, changed)
            yield
        finally:
            termios.tcsetattr(fd, termios.TCSANOW, before)


def _history(path: Path | None) -> History:
    """What was typed before, for its writer's eyes only; of a file that has grown long the second half. Where none can
    be kept there is none."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        if path.stat().st_size > MAX_HISTORY_BYTES:
            later = path.read_bytes()[-MAX_HISTORY_BYTES // 2 :]
            path.write_bytes(later[max(0, later.find(b"\n# ")) :])
    except OSError:
        return InMemoryHistory()
    return _Kept(path)


class _Kept(FileHistory):
    def store_string(self, string: str) -> None:
        with suppress(OSError):  # a disk that is full ends no conversation
            super().store_string(string)
