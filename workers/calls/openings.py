"""Where in an answer a call begins, so that a grammar holds what follows: seen by the parser that reads it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from msgspec import Struct

from workers.calls.calls import Answer, BrokenCall
from workers.calls.deltas import CallBegun, Delta
from workers.calls.parser import Parser
from workers.calls.reader import Reader, Steps
from workers.calls.syntax import Form, Syntax, Tool

NOT_HELD = ("nested",)
"""Forms of arguments that no grammar is made of."""
FORCED = "forced"
"""The answer's beginning, where a call has to stand, or the text of a schema may."""
THINKING = "thinking"
"""The same, of a model that may think first."""


class Behind(Struct, frozen=True):
    """What may follow a place where a call begins: a call as `form` has it, of which so many characters are written."""

    form: Form
    num_written: int = 0


class Opening(Struct, frozen=True):
    """A place from where on a grammar holds: behind so many characters of what was fed."""

    place: int
    behind: str
    """The mark that stands there, FORCED, THINKING, or what `begun_behind` says."""
    tool: str | None = None
    """The call's, where its name is read already and its arguments follow."""


def can_hold(syntax: Syntax) -> bool:
    """Whether a grammar can hold calls of that syntax."""
    return syntax.form is not None and syntax.form.arguments not in NOT_HELD


def forms_behind(syntax: Syntax) -> dict[str, Behind]:
    """By mark, or character of `bare`, what follows it; by the whole beginning of a call, by FORCED too. Empty where no
    grammar can hold calls of that syntax."""
    if syntax.form is None or not can_hold(syntax):
        return {}
    form = syntax.form
    written = form.begin + form.before_name
    found = {FORCED: Behind(form, len(">>>") if written == ">>>" else 0)}
    for mark in (*syntax.starts, *syntax.maybe, *syntax.bare):
        if mark in syntax.other_forms:
            found[mark] = Behind(syntax.other_forms[mark])
        elif mark in written and len(mark) > 1:
            found[mark] = Behind(form, written.index(mark) + len(mark))
    if syntax.whole is not None:
        found = {FORCED: found[FORCED]}  # its marks begin other messages as well
    if first := written_first(syntax):
        found[first] = Behind(form, len(written))
    return found


def written_first(syntax: Syntax) -> str:
    """The text that begins a call, where no mark of the syntax is sure to; empty where one is."""
    written = syntax.form.begin + syntax.form.before_name if syntax.form is not None else ""
    is_told = written in syntax.starts or (syntax.whole is None and any(mark in written for mark in syntax.starts))
    return "" if is_told else written


def held(syntax: Syntax, *, beside_text: bool = False) -> Syntax:
    """The syntax without what is no beginning that `forms_behind` knows; `beside_text`: without what need not be a
    call, for an answer whose text is JSON."""
    known = forms_behind(syntax)
    first = written_first(syntax)[:1]
    starts = tuple(mark for mark in syntax.starts if mark in known or syntax.whole is not None)
    maybe = () if beside_text else tuple(mark for mark in syntax.maybe if mark in known)
    bare = "".join(one for one in syntax.bare if one in known and (one == first or not beside_text))
    return replace(syntax, starts=starts, maybe=maybe, bare=bare)


class Watch:
    """Reads an answer, character by character, until it sees a call begin; or, where one is forced, the end of the
    thought before it."""

    def __init__(self, syntax: Syntax, tools: Iterable[Tool], *, thinking: bool, is_forced: bool) -> None:
        """`syntax` is what `held` gives; `thinking`: the prompt has begun a thought; `is_forced`: the answer has to be
        a call, or what else the grammar has for its beginning."""
        self._syntax = syntax
        self._behind: Mapping[str, Behind] = forms_behind(syntax)
        self._is_forced = is_forced
        self._written = written_first(syntax)
        self._begins_answer = bool(syntax.bare) and self._written[:1] in tuple(syntax.bare)
        self._mark = ""
        self._opened: str | None = None
        self._said = ""
        """What the answer ends with, or begins with where a call without any mark has to begin it."""
        read = syntax.read if syntax.whole is not None else self._read
        self._parser = Parser(replace(syntax, read=read), tools, thinking=thinking, is_held=True)

    def _read(self, reader: Reader, answer: Answer, mark: str) -> Steps:
        self._mark = mark or (yield from reader.peek())
        if self._mark not in self._behind:
            raise BrokenCall(None)
        if self._mark in self._syntax.starts:
            self._opened = self._mark
            while True:
                yield
        return (yield from self._syntax.read(reader, answer, mark))

    @property
    def is_thinking(self) -> bool:
        """Whether what was read ends within a thought."""
        return self._parser.is_thinking

    @property
    def opened_first(self) -> Opening | None:
        """Where a call is forced and none has begun: the place before all; None within a thought."""
        if not self._is_forced or self._parser.is_thinking:
            return None
        return Opening(0, FORCED if self._syntax.thoughts is None else THINKING)

    def feed(self, text: str) -> Opening | None:
        """More of the answer; where in it a call begins. Nothing is to be fed behind that."""
        for index, character in enumerate(text):
            was_thinking = self._parser.is_thinking
            deltas = self._parser.feed(character)
            if (found := self._seen(index, character, deltas, was_thinking=was_thinking)) is not None:
                return found
        return None

    def _seen(self, index: int, character: str, deltas: list[Delta], *, was_thinking: bool) -> Opening | None:
        if self._opened is not None:
            return Opening(index + 1, self._opened)
        if self._is_forced:
            ended = was_thinking and not self._parser.is_thinking
            return Opening(index + 1, FORCED) if ended else None
        for delta in deltas:
            if isinstance(delta, CallBegun):
                mark = self._begun_behind()
                return Opening(index if _is_object(self._behind[mark].form) else index + 1, mark, delta.name)
        is_begun = bool(self._written) and not was_thinking and self._adds(character)
        return Opening(index + 1, self._written) if is_begun else None

    def _begun_behind(self) -> str:
        return self._mark if self._mark in self._behind else FORCED

    def _adds(self, character: str) -> bool:
        """Whether the beginning of a call that no mark tells is whole with it."""
        if self._parser.is_thinking:
            self._said = ""
        elif not self._begins_answer:
            self._said = (self._said + character)[-len(self._written) :]
        elif len(self._said) <= len(self._written) and (self._said or not character.isspace()):
            self._said += character
        return self._said == self._written


def _is_object(form: Form) -> bool:
    """Whether a call's name stands in an object with its arguments, which are seen by their first character."""
    return form.before_arguments.startswith('"') and form.before_name.endswith('"')
