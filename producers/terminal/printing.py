"""An answer at a terminal: its text on stdout, what is said about it in lines of its own on stderr.

Thoughts are dim, and shown to people only: what reads a pipe or a file wants the answer.
"""

from __future__ import annotations

import sys

from broker.answer import Answer
from broker.messages import Chunk, Done, Failed

_DIM, _PLAIN = "\x1b[2m", "\x1b[22m"


class Printer:
    """Prints one answer as it comes."""

    def __init__(self) -> None:
        self._attempt = 0
        self._is_within_line = False
        self._is_in_thoughts = False

    def show(self, chunk: Chunk) -> None:
        """The next piece of thoughts and text; that it begins anew, where another worker has taken over."""
        if chunk.attempt > self._attempt:
            self._attempt = chunk.attempt
            self._end_thoughts("\n")
            self._write("\n[started again by another worker]\n")
        if chunk.reasoning and sys.stdout.isatty():
            if not self._is_in_thoughts:
                self._is_in_thoughts = True
                sys.stdout.write(_DIM)
            self._write(chunk.reasoning)
        if chunk.text:
            self._end_thoughts(chunk.text)
            self._write(chunk.text)
        sys.stdout.flush()

    def _end_thoughts(self, text: str) -> None:
        """The text behind thoughts begins a line."""
        if self._is_in_thoughts:
            self._is_in_thoughts = False
            sys.stdout.write(_PLAIN)
            if self._is_within_line and not text.startswith("\n"):
                self._write("\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        self._is_within_line = not text.endswith("\n")

    def end_line(self) -> None:
        """What is printed next begins a line, and is no thought."""
        self._end_thoughts("\n")
        if self._is_within_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._is_within_line = False

    def note(self, text: str) -> None:
        """A line on stderr, which leaves what stdout has as it is: somebody may read that."""
        is_seen_together = self._is_within_line and sys.stdout.isatty() and sys.stderr.isatty()
        sys.stderr.write(f"{'\n' if is_seen_together else ''}[{text}]\n")
        sys.stderr.flush()


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
