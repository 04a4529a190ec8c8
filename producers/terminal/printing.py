"""An answer at a terminal: its text on stdout, what is said about it in lines of its own on stderr.

Thoughts are dim, and shown to people only, as Markdown is rendered for them: what reads a pipe or a file wants the
answer as it is.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from broker.answer import Answer
from broker.messages import Chunk, Done, Failed

if TYPE_CHECKING:
    from producers.terminal.markdown import Drawn

_DIM, _PLAIN = "\x1b[2m", "\x1b[22m"
DUMB = ("dumb", "unknown")
_CONTROLS = {code: "\ufffd" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"} | {13: None}


def is_dumb() -> bool:
    """Whether the terminal can do no more than write lines."""
    return os.environ.get("TERM", "") in DUMB


def shown(text: str) -> str:
    """A stranger's text as a terminal may have it: nothing in it moves the cursor or changes a title."""
    return text.translate(_CONTROLS)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """While entered, a terminal shows that something is waited for, in a line that is gone afterwards."""
    if not sys.stderr.isatty() or is_dumb():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text, spinner="line"):
        yield


class Printer:
    """Prints one answer as it comes."""

    def __init__(self, is_plain: bool = False) -> None:
        """`is_plain`: Markdown is written as it stands, also at a terminal."""
        self._attempt = 0
        self._is_within_line = False
        self._is_in_thoughts = False
        self._is_seen = sys.stdout.isatty()
        self._drawn: Drawn | None = None
        if self._is_seen and not is_plain and not is_dumb():
            from producers.terminal.markdown import Drawn

            self._drawn = Drawn()

    def show(self, chunk: Chunk) -> None:
        """The next piece of thoughts and text; that it begins anew, where another worker has taken over."""
        if chunk.attempt > self._attempt:
            self._attempt = chunk.attempt
            self._end_thoughts("\n")
            self._end_drawing()
            self._write("\n[started again by another worker]\n")
        if chunk.reasoning and self._is_seen:
            self._end_drawing()
            if not self._is_in_thoughts:
                self._is_in_thoughts = True
                sys.stdout.write(_DIM)
            self._write(chunk.reasoning)
        if chunk.text:
            self.write(chunk.text)
        sys.stdout.flush()

    def write(self, text: str) -> None:
        """A piece of the answer's text."""
        self._end_thoughts(text)
        if self._drawn is None:
            self._write(text)
        else:
            self._drawn.write(shown(text))

    def _end_thoughts(self, text: str) -> None:
        """The text behind thoughts begins a line."""
        if self._is_in_thoughts:
            self._is_in_thoughts = False
            sys.stdout.write(_PLAIN)
            if self._is_within_line and not text.startswith("\n"):
                self._write("\n")

    def _end_drawing(self) -> None:
        if self._drawn is not None:
            self._drawn.end()

    def _write(self, text: str) -> None:
        sys.stdout.write(shown(text) if self._is_seen else text)
        self._is_within_line = not text.endswith("\n")

    def end_line(self) -> None:
        """What is printed next begins a line, and is no thought."""
        self._end_thoughts("\n")
        self._end_drawing()
        if self._is_within_line:
            sys.stdout.write("\n")
        sys.stdout.flush()
        self._is_within_line = False

    def note(self, text: str) -> None:
        """A line on stderr, which leaves what stdout has as it is: somebody may read that."""
        line = folded(f"[{shown(text)}]")
        is_seen_together = self._is_seen and sys.stderr.isatty()
        if is_seen_together and self._drawn is not None and self._drawn.is_within_line:
            self._drawn.note(line)
            return
        sys.stderr.write(f"{'\n' if is_seen_together and self._is_within_line else ''}{line}\n")
        sys.stderr.flush()


def folded(text: str) -> str:
    """Between words where a terminal's line ends, which would break them."""
    width = _columns(sys.stderr)
    if not width:
        return text
    lines = text.split("\n")
    return "\n".join(
        textwrap.fill(one, width, break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
        for one in lines
    )


def _columns(file: TextIO) -> int:
    """How many fit into a terminal's line; 0 where it is none, or does not say."""
    try:
        return os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return 0


def counted(number: int, noun: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def summary(answer: Answer) -> str:
    """What became of the turn, without brackets: figures, or why it failed; the seed where tokens were drawn."""
    match answer.end:
        case Done(usage=usage, timings=timings, finish_reason=reason):
            tokens = counted(usage.completion_tokens, "token")
            if usage.completion_tokens > 1 and timings.decode:
                tokens += f" at {(usage.completion_tokens - 1) / timings.decode:.1f}/s"
            if usage.reasoning_tokens:
                tokens += f", {usage.reasoning_tokens} of them thoughts"
            sampling = answer.turn.sampling
            seed = f"; seed {sampling.seed}" if sampling.temperature else ""
            return (
                f"{reason}: {counted(usage.prompt_tokens, 'prompt token')}, {usage.cached_tokens} of them cached; "
                f"{tokens}; waited {timings.queue_wait * 1000:.0f} ms{seed}"
            )
        case Failed(code=code, detail=detail):
            return f"{code}: {detail}"
        case None if answer.sent_at is None:
            return "stopped before it was queued"
        case None:
            return "stopped: its end has not come yet"


def advice(answer: Answer, to_do: str) -> str | None:
    """What to do about a context that the conversation has filled; None where it has not."""
    match answer.end:
        case Failed(code="prompt_too_long"):
            return f"the conversation is longer than the model's context: {to_do}"
        case Done(finish_reason="length", usage=usage) if usage.completion_tokens < answer.turn.sampling.max_tokens:
            return f"the answer was cut as the model's context is full: {to_do}"
    return None
