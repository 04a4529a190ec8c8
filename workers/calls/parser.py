"""One answer of a model: its text in pieces, and what it says, call by call. A state machine without I/O or a clock."""

from __future__ import annotations

from collections.abc import Iterable

from workers.calls.calls import Answer, BrokenCall
from workers.calls.deltas import Delta
from workers.calls.reader import Marks, Reader, Steps, marks
from workers.calls.syntax import Read, Syntax, Thoughts, Tool

MAX_CALLS = 128


class Parser:
    """Of one answer. Whatever comes is text, reasoning, a call, or a broken one that comes as text: never an error."""

    def __init__(
        self,
        syntax: Syntax,
        tools: Iterable[Tool] = (),
        *,
        thinking: bool = False,
        max_calls: int = MAX_CALLS,
        is_held: bool = False,
    ) -> None:
        """`is_held`: a grammar holds the calls, but for what stands before their arguments in a call without a mark.
        `thinking`: the prompt ends within a thought. Calls beyond `max_calls` whole ones are broken, and so is each of
        another tool than these; without tools nothing is a call."""
        self._syntax = syntax
        self._ignored = syntax.ignored + (syntax.thoughts.around if syntax.thoughts else ())
        self._reader = Reader()
        self._answer = Answer(self._reader, {tool.name: tool.parameters for tool in tools}, max_calls, is_held=is_held)
        self._steps = self._all(thinking)
        next(self._steps, None)

    @property
    def num_calls(self) -> int:
        """That have begun."""
        return self._answer.num_calls

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next belongs to a thought, as far as is known."""
        return self._answer.is_thinking

    @property
    def num_held(self) -> int:
        """How many characters are not told yet, as they may be the beginning of a mark."""
        return self._reader.num_unread

    def feed(self, piece: str) -> list[Delta]:
        """What is sure now that this piece has come. Deltas are never taken back."""
        self._reader.feed(piece)
        next(self._steps, None)
        return self._answer.taken()

    def finish(self) -> list[Delta]:
        """The rest: nothing follows, because the answer is over or was cut off."""
        self._reader.end()
        for _ in self._steps:
            pass
        self._answer.finish()
        return self._answer.taken()

    def _all(self, thinking: bool) -> Steps:
        syntax = self._syntax
        if thinking and syntax.thoughts is not None:
            yield from self._thought(syntax.thoughts)
        if syntax.whole is not None:
            yield from self._call(syntax.whole, "")
        yield from self._bare()
        while True:
            mark = yield from self._reader.until(self._marks(), self._answer.text)
            if not mark:
                return ""
            if mark in self._ignored:
                continue
            if syntax.thoughts is not None and mark == syntax.thoughts.begin:
                yield from self._begun(syntax.thoughts, mark)
            else:
                yield from self._call(syntax.read, mark)

    def _bare(self) -> Steps:
        """A call without any mark, where the answer begins so."""
        if self._answer.has_tools and self._syntax.bare:
            character = yield from self._reader.space(self._answer.text)
            if character and character in self._syntax.bare:
                yield from self._call(self._syntax.read, "")
        return ""

    def _marks(self) -> Marks:
        syntax = self._syntax
        found = list(self._ignored)
        if self._answer.has_tools:
            found += syntax.starts + syntax.maybe
        if syntax.thoughts is not None and (syntax.thoughts.anywhere or not self._answer.has_text):
            found.append(syntax.thoughts.begin)
        return marks(*found)

    def _begun(self, thoughts: Thoughts, mark: str) -> Steps:
        if thoughts.anywhere or not self._answer.has_text:
            is_first = not self._answer.has_text and not self._answer.num_calls
            yield from self._thought(thoughts)
            if is_first and not self._answer.num_calls:
                yield from self._bare()
        else:
            self._answer.text(mark)
        return mark

    def _thought(self, thoughts: Thoughts) -> Steps:
        self._answer.turn(thinking=True)
        yield from self._reader.space()
        yield from self._reader.take(marks(thoughts.begin))  # models begin again what the template has begun
        starts = self._syntax.starts if self._syntax.calls_end_thoughts and self._answer.has_tools else ()
        mark = yield from self._reader.until(marks(thoughts.end, *thoughts.other_ends, *starts), self._answer.thought)
        self._answer.turn(thinking=False)
        if mark in starts:
            yield from self._call(self._syntax.read, mark)
        return mark

    def _call(self, read: Read, mark: str) -> Steps:
        is_sure = mark in self._syntax.starts or read is self._syntax.whole
        self._answer.section(mark, is_sure=is_sure)
        try:
            yield from read(self._reader, self._answer, mark)
        except BrokenCall as error:
            is_cut = self._reader.ended and self._reader.is_empty
            reason = "cut_off" if is_cut and error.reason else error.reason
            self._answer.broken(reason if is_sure or self._answer.is_call else None)
            self._answer.section_ended()
        else:
            if not is_sure and not self._answer.is_call:
                self._answer.broken(None)
            self._answer.section_ended()
        return mark
