"""Text that comes in pieces, read as if it were whole: what reads it is a generator that yields where it needs more.

What is read is taken out at once, so that only the beginning of a mark, or of an escape, is ever kept: the work is
linear in the text, however it was cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from functools import lru_cache

Steps = Generator[None, None, "str"]
"""Reads something and returns it; yields where more text is needed. The empty string: the text has ended."""
Sink = Callable[[str], None]

_SPACE = re.compile(r"\s+")


class Marks:
    """Some literal texts that are looked for together. Of several at one place the longest counts."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Empty texts are left out."""
        self.texts = frozenset(filter(None, texts))
        longest_first = sorted(self.texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._begun = frozenset(text[:end] for text in self.texts for end in range(1, len(text)))
        self._longest = max(map(len, self.texts), default=0)

    def may_begin(self, text: str, at: int) -> bool:
        """Whether what stands from `at` on is the beginning of a mark, and no whole one."""
        return len(text) - at < self._longest and text[at:] in self._begun

    def at(self, text: str, at: int) -> str:
        """The mark at that place, empty for none."""
        found = self._pattern.match(text, at)
        return found.group() if found else ""

    def find(self, text: str, at: int, *, ended: bool) -> tuple[int, str]:
        """The first mark from `at` on and its place; with an empty mark, up to where the text is sure to have none."""
        found = self._pattern.search(text, at)
        place, mark = (found.start(), found.group()) if found else (len(text), "")
        if not ended:
            for begin in range(max(at, len(text) - self._longest + 1), min(place + 1, len(text))):
                if text[begin:] in self._begun:
                    return begin, ""
        return place, mark


@lru_cache(maxsize=256)
def marks(*texts: str) -> Marks:
    """The same for the same texts: compiled once."""
    return Marks(texts)


def ignore(_: str) -> None:
    """A sink for what is of no interest."""


class Reader:
    """The text that was fed and is not yet read."""

    def __init__(self) -> None:
        """Empty."""
        self._text = ""
        self._at = 0
        self.ended = False
        self._record: list[str] | None = None

    def feed(self, piece: str) -> None:
        """More text."""
        self._text = self._text[self._at :] + piece
        self._at = 0

    def end(self) -> None:
        """No more text will come."""
        self.ended = True

    @property
    def is_empty(self) -> bool:
        """Whether all that was fed is read."""
        return self._at >= len(self._text)

    @property
    def num_unread(self) -> int:
        """Characters that were fed and are not read."""
        return len(self._text) - self._at

    def record(self, begun_with: str) -> None:
        """Begins what `recorded` gives, with what was read already."""
        self._record = [begun_with]

    def recorded(self) -> str:
        """All that was read since `record`, which ends with it."""
        record, self._record = self._record or [], None
        return "".join(record)

    def _take(self, end: int) -> str:
        taken = self._text[self._at : end]
        self._at = end
        if taken and self._record is not None:
            self._record.append(taken)
        return taken

    def peek(self) -> Steps:
        """The next character, which stays."""
        while self.is_empty and not self.ended:
            yield
        return "" if self.is_empty else self._text[self._at]

    def character(self) -> Steps:
        """The next character."""
        yield from self.peek()
        return self._take(min(self._at + 1, len(self._text)))

    def run(self, pattern: re.Pattern[str], sink: Sink) -> Steps:
        """Gives `sink` all characters from here on that match `pattern`, which is of any number of one class; returns
        the character behind them, which stays."""
        while True:
            found = pattern.match(self._text, self._at)
            if found and found.end() > self._at:
                sink(self._take(found.end()))
            if not self.is_empty:
                return self._text[self._at]
            if self.ended:
                return ""
            yield

    def space(self, sink: Sink = ignore) -> Steps:
        """Reads white space; returns the character behind it, which stays."""
        return (yield from self.run(_SPACE, sink))

    def take(self, found: Marks) -> Steps:
        """The mark that stands here; empty, and nothing is read, where there is none."""
        while not self.ended and (self.is_empty or found.may_begin(self._text, self._at)):
            yield
        mark = found.at(self._text, self._at)
        self._take(self._at + len(mark))
        return mark

    def sees(self, found: Marks) -> Steps:
        """The mark that stands here, which stays."""
        while not self.ended and (self.is_empty or found.may_begin(self._text, self._at)):
            yield
        return found.at(self._text, self._at)

    def until(self, found: Marks, sink: Sink) -> Steps:
        """Gives `sink` what stands before the next of these marks, as it comes; reads and returns that mark."""
        while True:
            place, mark = found.find(self._text, self._at, ended=self.ended)
            if place > self._at:
                sink(self._take(place))
            if mark:
                return self._take(place + len(mark))
            if self.ended:
                return ""
            yield
