"""Markdown at a terminal, drawn as it comes: the block that is being written is kept right, those before it stay.

What changes in a block is its last line nearly always, so that most pieces are only added to what stands there.
"""

from __future__ import annotations

import io
import itertools
import re
import sys
import time
from typing import ClassVar, TextIO

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown
from rich.syntax import Syntax
from rich.text import Text

MAX_DRAWING_SHARE = 0.25
"""Of the time that an answer takes: a block that takes long to draw is drawn less often."""
_BELOW = "\x1b[J"
"""Clears from the cursor to the end of the screen."""
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_PADDING = re.compile(rf"(?:{_STYLE.pattern}| )*$")


class _Code(CodeBlock):
    """In the terminal's own colours and without a frame, so that it is copied as it is."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(
            str(self.text).rstrip(), self.lexer_name, theme="ansi_dark", word_wrap=True, background_color="default"
        )


class _Heading(Heading):
    """At the left, where an answer is read."""

    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}


class _Markdown(Markdown):
    """What a model writes: its line ends are meant, and what looks like HTML is text."""

    elements: ClassVar = {**Markdown.elements, "fence": _Code, "code_block": _Code, "heading_open": _Heading}


_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
_DEEPEST = _PARSER.options.maxNesting - 1


def _parsed(text: str) -> list[Token]:
    tokens = _PARSER.parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens


def _blocks(text: str) -> list[str]:
    """The text's blocks, the last of which may go on."""
    begins = [one.map[0] for one in _parsed(text) if one.level == 0 and one.map is not None]
    lines = list(io.StringIO(text))  # by line feeds alone, as the parser counts them
    return ["".join(lines[begin:end]) for begin, end in itertools.pairwise([0, *begins[1:], None])]


def rendered(text: str, console: Console, width: int) -> list[str]:
    """The lines of Markdown as the terminal is to show them, none of them longer than `width`."""
    tokens = _parsed(text)
    shown: _Markdown | Text = Text(text)
    # What lies deeper the parser leaves out: a model that repeats itself may write `>` for ever.
    if all(token.level < _DEEPEST for token in tokens):
        shown = _Markdown("", hyperlinks=False)
        shown.parsed = tokens
    with console.capture() as capture:
        console.print(shown, width=width)
    lines = [_without_padding(line) for line in capture.get().split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    while lines and not lines[0]:
        lines.pop(0)
    return lines


def _without_padding(line: str) -> str:
    """Without the spaces at its end, also those with a colour: whoever copies it does not want them."""
    padding = _PADDING.search(line)
    if padding is not None and not padding.start():
        return ""
    if padding is None or " " not in padding[0]:
        return line
    return line[: padding.start()] + ("\x1b[0m" if "\x1b" in padding[0] else "")


def _cleared(lines: list[str]) -> str:
    """The lines, in place of all that stands where they are written and below. A screen that is cleared at once would
    flicker, and be kept by some terminals as if it had been scrolled."""
    return "".join(f"{line}\x1b[K\n" for line in lines[:-1]) + f"{lines[-1] if lines else ''}\x1b[K\x1b[J"


class Drawn:
    """One answer, drawn on a terminal, by default standard output. `write` takes its pieces, `end` what is left."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stdout
        self._console = Console(file=self._file)
        self._text = ""
        """Of the block that is being written."""
        self._lines: list[str] = []
        """Of it, as they stand there; the cursor is behind the last."""
        self._is_first = True
        self._drawn_at = 0.0
        self._drawing_seconds = 0.0

    @property
    def is_within_line(self) -> bool:
        """Whether what is written next would stand behind text."""
        return bool(self._lines)

    def write(self, text: str) -> None:
        """The next piece."""
        self._text += text
        if time.monotonic() - self._drawn_at > self._drawing_seconds / MAX_DRAWING_SHARE:
            self._draw()

    def end(self) -> None:
        """Draws what is left; what is written next begins a line, and another answer."""
        self._draw()
        self._end_block()
        self._is_first, self._text = True, ""

    def note(self, line: str) -> None:
        """Writes a line, or several, above the block that is being written."""
        lines, self._lines = self._lines, []
        if lines:
            self._rise(lines, 0)
            self._file.write(_cleared(line.split("\n")) + "\n")
        else:
            self._file.write(f"{line}\n")
        self._replace(lines)
        self._file.flush()

    def _draw(self) -> None:
        """Blocks that are over are written for the last time; each but the first behind an empty line."""
        began = time.monotonic()
        *over, self._text = _blocks(self._text)
        for block in over:
            self._replace(rendered(block, self._console, self._width))
            self._end_block()
        self._replace(rendered(self._text, self._console, self._width))
        self._file.flush()
        self._drawn_at = time.monotonic()
        self._drawing_seconds = self._drawn_at - began

    def _end_block(self) -> None:
        if self._lines:
            self._file.write("\n")
            self._lines = []
            self._is_first = False

    @property
    def _width(self) -> int:
        """Of a line; one less than there is, as a full one leaves the cursor nowhere."""
        return max(1, self._console.width - 1)

    def _replace(self, lines: list[str]) -> None:
        """Has `lines` stand where those of the block stood, writing no more than what is new."""
        old = self._lines
        if old and not lines:
            lines = [""]  # it is begun: its line stays
        if lines == old:
            return
        if not old:
            self._file.write(("" if self._is_first else "\n") + "\n".join(lines))
            self._lines = lines
            return
        num_same = next(
            (i for i, (a, b) in enumerate(zip(old, lines, strict=False)) if a != b), min(len(old), len(lines))
        )
        last = len(old) - 1
        if num_same >= last and len(lines) > last and lines[last].startswith(old[last]):
            self._file.write("\n".join([lines[last][len(old[last]) :], *lines[last + 1 :]]))
        else:
            begins = self._rise(old, min(num_same, last, len(lines) - 1))
            self._file.write(_cleared(lines[begins:]))
        self._lines = lines

    def _rise(self, lines: list[str], index: int) -> int:
        """Moves the cursor to the beginning of a line of those that stand there, or of the first that is still seen;
        which one that is."""
        width, height = self._console.size
        up = self._rows(lines[-1], width) - 1
        at = len(lines) - 1
        while at > index and up + (more := self._rows(lines[at - 1], width)) < height:
            at, up = at - 1, up + more
        self._file.write("\r" + (f"\x1b[{up}A" if up else ""))
        return at

    @staticmethod
    def _rows(line: str, width: int) -> int:
        """How many a line takes: more than one where the terminal was made narrower since it was written."""
        return max(1, -(-cell_len(_STYLE.sub("", line)) // width))
