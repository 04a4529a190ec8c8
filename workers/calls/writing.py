"""Calls as a model writes them, for a history whose template has no words of its own for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from workers.calls.syntax import Form, Syntax
from workers.calls.syntaxes import SYNTAXES

Parts = list[tuple[str, bool]]
"""A text in parts, and of each whether it is a mark of the syntax: others are somebody's."""


def written(form: Form, calls: Iterable[tuple[str, dict[str, Any]]]) -> Parts:
    """Calls, each a tool's name and its arguments, in a form of JSON or of Python's."""
    found: Parts = [(form.begin, True)]
    for number, (name, arguments) in enumerate(calls):
        found += [(form.between or "", True)] if number else []
        found += [(form.before_name, True), (name, False), (form.before_arguments, True)]
        found += [(_arguments(form, arguments), False), (form.after, True)]
    return [part for part in [*found, (form.end, True)] if part[0]]


def _arguments(form: Form, arguments: dict[str, Any]) -> str:
    if form.arguments == "pythonic":
        return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return json.dumps(arguments, ensure_ascii=False)


def in_tags(calls: Iterable[tuple[str, dict[str, Any]]]) -> Parts:
    """Calls as Hermes writes them: what most models were taught."""
    form = SYNTAXES["hermes"].form
    assert form is not None
    return written(form, calls)


def writer(syntax: Syntax) -> Callable[[Iterable[tuple[str, dict[str, Any]]]], Parts]:
    """What writes calls in that syntax; in Hermes' where this one's form is another kind."""
    form = syntax.form
    return partial(written, form) if form is not None and form.arguments in ("json", "pythonic") else in_tags
