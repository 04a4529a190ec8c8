"""How many tokens of an answer are thoughts: those between the marks, which are none themselves."""

from __future__ import annotations

from collections import deque

from workers.calls.deltas import Delta
from workers.calls.parser import Parser


class ThoughtTokens:
    """Reads an answer by its parser and counts."""

    def __init__(self, parser: Parser) -> None:
        """Of a parser that has read nothing yet."""
        self._parser = parser
        self._held: deque[tuple[int, int]] = deque()
        """Tokens that may be the mark of the end, and their characters."""
        self.num_tokens = 0

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next belongs to a thought, as far as is known."""
        return self._parser.is_thinking

    @property
    def is_in_mark(self) -> bool:
        """Whether the thought may be about to end: the beginning of a mark was read."""
        return self._parser.is_thinking and self._parser.num_held > 0

    def feed(self, text: str, num_tokens: int) -> list[Delta]:
        """What the next tokens add to the answer: their text."""
        was_thinking = self._parser.is_thinking
        deltas = self._parser.feed(text)
        if not self._parser.is_thinking:
            self._held.clear()  # they were the mark's
        elif was_thinking:
            self._held.append((num_tokens, len(text)))
            num_characters = sum(length for _, length in self._held)
            while self._held and num_characters - self._held[0][1] >= self._parser.num_held:
                num_characters -= self._held[0][1]
                self.num_tokens += self._held.popleft()[0]
        return deltas

    def finish(self) -> list[Delta]:
        """What was held back: nothing follows."""
        self.num_tokens += sum(num for num, _ in self._held)
        self._held.clear()
        return self._parser.finish()
