"""The grammar of a turn's calls: what may follow each place where one begins, in the model's own syntax. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from workers.calls.openings import FORCED, THINKING, Behind
from workers.calls.syntax import Form, Tool
from workers.grammars.schemas.grammar import Maker
from workers.grammars.schemas.rules import Rules, SchemaRefused, literal
from workers.grammars.schemas.shapes import Part
from workers.grammars.schemas.spellings import OBJECT, GemmaMaker, pythonic, tagged

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class CallsWanted(Struct, frozen=True):
    """What a grammar of calls is made of."""

    tools: tuple[Tool, ...]
    """That may be called."""
    behind: dict[str, Behind]
    """By mark, what may follow it."""
    marks: dict[str, int]
    """Spellings that are tokens of their own, without a text."""
    is_one: bool = False
    """One call at most."""
    thought: str = ""
    """With what a thought begins that may come before; empty for none."""
    behind_thought: str = ""
    """What may stand between a thought and a call."""
    text_schema: dict[str, Any] | None = None
    """Of what the answer may be instead of a call."""


class CallRules(Struct, frozen=True):
    """A grammar without a beginning: rules in GBNF, in which `<[7]>` is the token 7."""

    rules: str
    roots: dict[str, str]
    """By mark, and by `argument_root` of a mark and a tool, the rule for all that may follow."""
    loose: tuple[str, ...] = ()
    """Tools whose schema no grammar holds to: of their arguments only the form is held."""

    def begun_with(self, behind: str, tool: str | None = None, begun: str = '""') -> str:
        """The grammar of what follows there, in GBNF with tokens; `begun` is an expression of what is written of it."""
        key = behind if tool is None else argument_root(behind, tool)
        return f"root ::= {begun} {self.roots[key]}\n{self.rules}"


def argument_root(behind: str, tool: str) -> str:
    """The key of what may follow where that tool's arguments begin."""
    return f"{behind}\0{tool}"


def spelled(text: str, marks: Mapping[str, int]) -> str:
    """A text as an expression; marks that are tokens are those tokens."""
    if not text:
        return '""'
    known = sorted(marks, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, known)) + ")", text) if known else [text]
    return " ".join(f"<[{marks[part]}]>" if part in marks else literal(part) for part in parts if part)


def call_rules(wanted: CallsWanted) -> CallRules:
    """The grammar. Raises SchemaRefused where there can be none."""
    return _Builder(wanted).made()


class _Builder:
    def __init__(self, wanted: CallsWanted) -> None:
        self._wanted = wanted
        self._rules = Rules()
        self._rules.reserve("root")  # what begins at the place where it opens
        self._loose: set[str] = set()
        self._arguments: dict[tuple[object, ...], str] = {}

    def made(self) -> CallRules:
        roots: dict[str, str] = {}
        for key, behind in self._wanted.behind.items():
            roots[key] = self._root(behind)
            for tool in self._wanted.tools:
                followed = f"{self._named(behind.form, tool)} {self._rest(behind.form)}"
                roots[argument_root(key, tool.name)] = self._rules.add("begun", followed)
        first = roots[FORCED]
        if self._wanted.text_schema is not None:
            maker = Maker(self._wanted.text_schema, self._rules)
            first = self._rules.add("either", f"{first} | {maker.value((Part(self._wanted.text_schema, ''),))}")
        space = self._rules.add("before", "[ \\n]{0,4}")
        aside = f"({self._spelled(self._wanted.behind_thought)})? " if self._wanted.behind_thought else ""
        roots[FORCED] = self._rules.add("first", f"{space} {aside}{first}")
        thought = f" | {space} {self._spelled(self._wanted.thought)}" if self._wanted.thought else ""
        roots[THINKING] = self._rules.add("first", f"{space} {first}{thought}")
        rules = "".join(str(self._rules).splitlines(keepends=True)[1:])
        return CallRules(rules, roots, tuple(sorted(self._loose)))

    def _spelled(self, text: str) -> str:
        return spelled(text, self._wanted.marks)

    def _root(self, behind: Behind) -> str:
        form = behind.form
        before = (form.begin + form.before_name)[behind.num_written :]
        return self._rules.add("calls", f"{self._spelled(before)} {self._head(form)} {self._more(form)}")

    def _head(self, form: Form) -> str:
        """A call from its tool's name on, to its end."""
        middle, after = self._spelled(form.before_arguments), self._spelled(form.after)
        calls = [f"{literal(tool.name)} {middle} {self._named(form, tool)} {after}" for tool in self._wanted.tools]
        return self._rules.add("call", " | ".join(calls))

    def _rest(self, form: Form) -> str:
        """What follows the first call's arguments."""
        return f"{self._spelled(form.after)} {self._more(form)}"

    def _more(self, form: Form) -> str:
        more = ""
        if form.between is not None and not self._wanted.is_one:
            more = f"({self._spelled(form.between)} {self._spelled(form.before_name)} {self._head(form)})* "
            if form.between.isspace():
                more += "[ \\n]{0,2} "  # what may stand between two calls may end the answer, too
        return more + self._spelled(form.end)

    def _named(self, form: Form, tool: Tool) -> str:
        """The rule for a tool's arguments."""
        kind = (form.arguments, form.before_key, form.before_text, form.before_value, form.after_value, tool.name)
        if kind not in self._arguments:
            schema = {**OBJECT, **tool.parameters} if tool.parameters else NO_ARGUMENTS
            before = self._rules.sizes
            try:
                made = self._made(form, schema)
            except SchemaRefused:
                self._rules.back_to(before)
                self._loose.add(tool.name)
                made = self._made(form, OBJECT)
            self._arguments[kind] = made
        return self._arguments[kind]

    def _made(self, form: Form, schema: Any) -> str:
        match form.arguments:
            case "json":
                return _object_rule(Maker(schema, self._rules), schema)
            case "gemma":
                return _object_rule(GemmaMaker(schema, self._rules, self._spelled), schema)
            case "pythonic":
                return pythonic(schema, self._rules)
            case "tagged":
                return tagged(
                    schema,
                    self._rules,
                    self._spelled,
                    before_key=form.before_key,
                    before_text=form.before_text,
                    before_value=form.before_value,
                    after=form.after_value,
                )
        raise SchemaRefused("", f"calls with {form.arguments} arguments are not held")


def _object_rule(maker: Maker, schema: Any) -> str:
    shapes = maker.schema.shapes((Part(schema, ""),))
    for shape in shapes:
        if (shape.types is None or shape.types != ("object",)) and shape.values is None:
            raise SchemaRefused("", "arguments that are no object")
        if shape.values is not None and not all(isinstance(value, dict) for value in shape.values):
            raise SchemaRefused("", "arguments that are no object")
    return maker.value((Part(schema, ""),))
