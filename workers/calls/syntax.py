"""What a family of models writes around its calls and its thoughts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from msgspec import Struct

from workers.calls.calls import Answer
from workers.calls.reader import Reader, Steps

Read = Callable[[Reader, Answer, str], Steps]
"""Reads what follows the mark that it is given, and says it to the answer. Raises BrokenCall."""


class Tool(Struct, frozen=True):
    """One that a turn offers: its name, and the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any] = {}


class Form(Struct, frozen=True):
    """A call as the model writes it, for a grammar: `begin`, then calls joined by `between`, then `end`; a call is
    `before_name`, the name, `before_arguments`, the arguments, `after`."""

    before_name: str
    before_arguments: str
    after: str
    begin: str = ""
    end: str = ""
    between: str | None = None
    """None: there is only one call."""
    arguments: Literal["json", "tagged", "pythonic", "gemma", "nested"] = "json"
    """`json`: an object. `tagged`: for each argument `before_key`, its name, `before_text` and the text of a string, or
    `before_value` and the JSON of anything else, `after_value`. `pythonic`: `name=value` with Python's literals, joined
    by `, `. `gemma`: an object whose names have no quotation marks and whose strings have `<|"|>`. `nested`: an element
    for each member and item, `<name>…</name>`, with `before_key` before each tag."""
    before_key: str = ""
    before_text: str = ""
    before_value: str = ""
    after_value: str = ""


IN_BRACKETS = Form("", "(", ")", end="]", between=", ", arguments="pythonic")
"""Behind a bracket that was written."""


@dataclass(frozen=True)
class Thoughts:
    """The marks around what a model thinks."""

    begin: str
    end: str
    other_ends: tuple[str, ...] = ()
    """That end a thought as well, and are read."""
    around: tuple[str, ...] = ()
    """Marks around the answer that follows, which are none of it."""
    anywhere: bool = False
    """They are tokens of their own and mean the same wherever they stand; others count only before the answer."""
    answer: str = ""
    """What begins the answer behind a thought, where thoughts and answers are messages."""

    def are_open(self, prompt: str) -> bool:
        """Whether a prompt ends within a thought that has just begun: the template opened it."""
        return prompt.rstrip().endswith(self.begin.rstrip())


@dataclass(frozen=True)
class Syntax:
    """How a model's answers are read."""

    name: str
    read: Read
    """What stands behind one of `starts`."""
    starts: tuple[str, ...]
    form: Form | None = None
    """None: a grammar cannot force it."""
    maybe: tuple[str, ...] = ()
    """What a call may begin with, but need not: where none follows it is text like any other."""
    other_forms: Mapping[str, Form] = field(default_factory=dict)
    """How a call is written behind a mark that `form` does not have, or, without any mark, behind nothing: by a
    character of `bare`, with which it begins. What has no form here is read only where no grammar holds the calls."""
    behind_thought: str = ""
    """What may stand between a thought, where that is a message of its own, and a call."""
    bare: str = ""
    """The first characters of a call without any mark; it stands where the answer begins."""
    ignored: tuple[str, ...] = ()
    """Marks around the answer's text, which are none of it."""
    thoughts: Thoughts | None = None
    calls_end_thoughts: bool = False
    """A call that begins within a thought ends it, and is one."""
    whole: Read | None = None
    """Reads an answer from its first character to its last, where nothing of it is plain text."""

    @property
    def trigger(self) -> str:
        """The text that a call in its form begins with, and nothing else: from there on a lazy grammar holds. Empty
        where there is none."""
        written = self.form.begin + self.form.before_name if self.form else ""
        if self.whole is not None:  # its marks begin other messages as well
            return "" if written in self.starts else written
        return next((mark for mark in (*self.starts, *self.maybe) if written.startswith(mark)), written)

    def with_thoughts(self, thoughts: Thoughts | None) -> Syntax:
        """The same with other marks around thoughts."""
        return replace(self, thoughts=thoughts)

    @property
    def behind_text(self) -> Syntax:
        """The same for the rest of an answer whose text has begun: no thought comes, and no call without a mark."""
        return replace(self, bare="", thoughts=None, whole=None)

    def thinks_after(self, prompt: str) -> bool:
        """Whether an answer to that prompt begins within a thought, as the template opened it."""
        return self.thoughts is not None and self.thoughts.are_open(prompt)
