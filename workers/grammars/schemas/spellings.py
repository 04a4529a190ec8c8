"""Arguments of calls that are not written as JSON: like Python's, with a tag for each, or as Gemma 4 has them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from workers.calls.values import kinds, member
from workers.grammars.schemas.grammar import Maker
from workers.grammars.schemas.objects import chain, named_members
from workers.grammars.schemas.patterns import counted, raw_expression
from workers.grammars.schemas.regex import Node
from workers.grammars.schemas.rules import Rules, SchemaRefused, character_class, complement, literal, union
from workers.grammars.schemas.shapes import Part, Parts, Shape, is_never

Spelled = Callable[[str], str]
"""A text that is a mark of the model's syntax, as an expression: it may be tokens of its own."""
_CONTROL = ((0x00, 0x08), (0x0B, 0x1F), (0x7F, 0x7F))
_ESCAPED = (
    r'"\\" (['
    "'"
    r'"\\/bfnrt] | "x" [0-7] [0-9a-f] | "u" ([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))'
)
_WORDS = ("true", "false", "null", "True", "False", "None")
_NO_TEXT = (*((ord(one), ord(one)) for one in "+-.[{(\"' \t\n"), (0x30, 0x39))
"""What a text that may also be read as JSON or Python does not begin with."""
_GEMMA_QUOTE = '<|"|>'
_GEMMA_NAME = re.compile(r"[^\s{}:<,\[\]]+")
OBJECT = {"type": "object"}


def object_shapes(maker: Maker, schema: Any) -> list[Shape]:
    """The alternatives of arguments, each an object with named members. Raises SchemaRefused for what else they are."""
    found = maker.schema.shapes((Part(schema, ""),))
    for shape in found:
        if shape.values is not None or (shape.types is not None and "object" not in shape.types):
            raise SchemaRefused("", "arguments that are no object of named members")
        if shape.pattern_properties or shape.names or shape.min_properties or shape.max_properties is not None:
            raise SchemaRefused("", "arguments whose names or number are not told one by one")
    if not found:
        raise SchemaRefused("", "no arguments are valid")
    return found


def is_free(shape: Shape) -> bool:
    """Whether nothing is said of any member."""
    is_open = shape.additional is None or not is_never(shape.additional)
    return not shape.properties and not shape.required and is_open and not shape.is_closed


def chained(maker: Maker, schema: Any, comma: str, entry: Callable[[str, Parts], str], other: str) -> str:
    """Arguments one behind another: `entry` writes one, `other` is one of any name."""
    bodies = []
    for shape in object_shapes(maker, schema):
        members = named_members(maker, shape)
        if members is None:
            continue
        fields = [(maker.rules.add("argument", entry(name, parts)), required) for name, parts, required in members]
        bodies.append(chain(maker.rules, comma, fields, other if is_free(shape) else None) or '""')
    if not bodies:
        raise SchemaRefused("", "no arguments are valid")
    return maker.rules.add("arguments", " | ".join(dict.fromkeys(bodies)))


# --- Python ---


class PythonMaker(Maker):
    """Values as Python's literals; JSON's words and strings are read as well."""

    def fixed_text(self, text: str) -> str:
        """See Maker."""
        spelt = dict.fromkeys((super().fixed_text(text), literal(repr(text))))
        return "(" + " | ".join(spelt) + ")"

    def word(self, value: Any) -> str:
        """See Maker."""
        return f"({super().word(value)} | {literal(repr(value))})"

    def free_string(self) -> str:
        """See Maker."""
        return self.string_between(0, None)

    def string_between(self, low: int, high: int | None) -> str:
        """See Maker."""
        double = self.rules.add("double", f'[^"\\\\\\x00-\\x1F\\x7F] | {_ESCAPED}')
        single = self.rules.add("single", f"[^'\\\\\\x00-\\x1F\\x7F] | {_ESCAPED}")
        often = counted(low, high)
        return self.rules.add("text", f'"\\"" {double}{often} "\\"" | "\'" {single}{often} "\'"')

    def other_key(self, taken: set[str]) -> str:
        """See Maker."""
        plain = super().other_key(taken)
        return plain if taken else self.rules.add("key", f'{plain} | "\'" [^\'\\\\\\x00-\\x1F\\x7F]* "\'"')


def pythonic(schema: Any, rules: Rules) -> str:
    """The name of the rule for `name=value, …`. Raises SchemaRefused."""
    maker = PythonMaker(schema, rules)

    def entry(name: str, parts: Parts) -> str:
        if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) is None:
            raise SchemaRefused("", f"an argument that Python cannot name: {name!r:.40}")
        return f'"{name}=" {maker.value(parts)}'

    return chained(maker, schema, f'"," {maker.ws()}', entry, f'[A-Za-z_] [A-Za-z0-9_]* "=" {maker.value(())}')


# --- Texts that stand as they are ---


def without_marks(rules: Rules, marks: tuple[str, ...], low: int = 0) -> str:
    """The rule for any text in which none of the marks stands, which all begin with one character. With `low` 1 it is
    not empty."""
    first = marks[0][0]
    assert all(mark[0] == first for mark in marks)
    # A mark in which its first character comes again is known by what stands before that: less is a text then.
    short = [mark if first not in mark[1:] else mark[: mark.index(first, 1)] for mark in marks]
    begun = sorted({mark[:end] for mark in short for end in range(1, len(mark))}, key=lambda one: (len(one), one))
    begin = ((ord(first), ord(first)),)
    options = [character_class(complement(union(_CONTROL, begin)))]
    for prefix in begun:
        following = tuple((ord(mark[len(prefix)]),) * 2 for mark in short if mark.startswith(prefix))
        options.append(f"{literal(prefix)} {character_class(complement(union(_CONTROL, begin, following)))}")
    some = rules.add("begun", " | ".join(map(literal, begun)))
    part = rules.add("part", f"{options[0]} | {some}* ({' | '.join(options[1:])})") if begun else options[0]
    ending = f" {some}*" if begun else ""
    return rules.add("raw", f"{part}{'+' if low else '*'}{ending}")


def _unlike_words(rules: Rules, rest: str, first: str) -> str:
    """The rule for a text that is no number, no word and nothing that has brackets or quotes. `rest` is any text."""

    def after(prefix: str) -> str:
        following = sorted({word[len(prefix)] for word in _WORDS if word.startswith(prefix) and word != prefix})
        codes = tuple((ord(one), ord(one)) for one in (*following, first))
        barred = (*_CONTROL, *codes) if prefix else (*_CONTROL, *codes, *_NO_TEXT)
        options = ['""'] if prefix else []
        options.append(f"{character_class(complement(union(barred)))} {rest}")
        options += [f"{literal(one)} ({after(prefix + one)})" for one in following if prefix + one not in _WORDS]
        return " | ".join(options)

    return rules.add("unlike", after(""))


class TaggedMaker(Maker):
    """Values in tags: a string stands as it is, all else is JSON. No string has the mark in it that ends it."""

    def __init__(self, schema: Any, rules: Rules, end: str, *, is_told: bool) -> None:
        """`is_told`: the tag tells strings from other values."""
        super().__init__(schema, rules)
        self._parameters: Mapping[str, Any] = schema if isinstance(schema, Mapping) else {}
        self._marks = (end, "<![CDATA[") if end.startswith("<") else (end,)
        self._is_told = is_told

    def is_text(self, name: str) -> bool:
        """Whether an argument is a string whatever it looks like, as the reader of calls sees it."""
        return kinds(member(self._parameters, name), self._parameters) == {"string"}

    def split(self, name: str, parts: Parts) -> tuple[str | None, str | None]:
        """What an argument is as a string that stands as it is, and as JSON; None where it cannot be."""
        texts: list[str] = []
        others: list[str] = []
        is_sure = self._is_told or self.is_text(name)
        for shape in self.schema.shapes(parts):
            for value in shape.values or ():
                if self._admits(value, shape):
                    (texts if isinstance(value, str) else others).append(
                        self._raw_value(value, is_sure) if isinstance(value, str) else self._fixed(value)
                    )
            if shape.values is None:
                for kind in self._kinds(shape):
                    body = self._raw_string(shape, is_sure) if kind == "string" else self._typed(kind, shape)
                    if body is not None:
                        (texts if kind == "string" else others).append(body)
        return self._either(name, texts), self._either(name, others)

    def _either(self, name: str, bodies: list[str]) -> str | None:
        return self.rules.add(f"{name}-value", " | ".join(dict.fromkeys(bodies))) if bodies else None

    def _raw_value(self, text: str, is_sure: bool) -> str:
        if any(mark in text for mark in self._marks) or "\x00" in text:
            raise SchemaRefused("", "a string that has the mark in it that ends it")
        looks = text.strip()
        if not is_sure and (looks in _WORDS or (looks and any(low <= ord(looks[0]) <= high for low, high in _NO_TEXT))):
            raise SchemaRefused("", "a string that looks like another value")
        return literal(text)

    def _raw_string(self, shape: Shape, is_sure: bool) -> str | None:
        node = self._text(shape)
        barred = union(_CONTROL, ((ord(self._marks[0][0]),) * 2,))
        if node is not None:
            if not is_sure:
                raise SchemaRefused(shape.path, "a string with a pattern or format that may be another value as well")
            return raw_expression(node, barred)
        if shape.max_length is not None and shape.max_length < shape.min_length:
            return None
        if not is_sure:
            if shape.min_length > 1 or shape.max_length is not None:
                raise SchemaRefused(shape.path, "a string with a length that may be another value as well")
            return _unlike_words(self.rules, without_marks(self.rules, self._marks), self._marks[0][0])
        if shape.min_length > 1 or shape.max_length is not None:
            return f"{character_class(complement(barred))}{counted(shape.min_length, shape.max_length)}"
        return without_marks(self.rules, self._marks, shape.min_length)


def tagged(
    schema: Any, rules: Rules, spelled: Spelled, *, before_key: str, before_text: str, before_value: str, after: str
) -> str:
    """The name of the rule for arguments with a tag each. Raises SchemaRefused."""
    is_told = before_text != before_value
    maker = TaggedMaker(schema, rules, after.strip(), is_told=is_told)
    end = spelled(after)

    def entry(name: str, parts: Parts) -> str:
        if re.fullmatch(r"[^\s<>\"&]+", name) is None:
            raise SchemaRefused("", f"an argument that no tag can name: {name!r:.40}")
        text, other = maker.split(name, parts)
        bodies = [] if text is None else [f"{spelled(before_text)} {text}"]
        bodies += [] if other is None else [f"{spelled(before_value)} {other}"]
        if not bodies:
            raise SchemaRefused(parts[0].path if parts else "", "no value is valid")
        return f"{spelled(before_key)} {literal(name)} ({' | '.join(bodies)}) {end}"

    free = f"{spelled(before_key)} [A-Za-z0-9_]+ {spelled(before_text)} {without_marks(rules, (after.strip(),))} {end}"
    return chained(maker, schema, "", entry, free)


# --- Gemma 4 ---


class GemmaMaker(Maker):
    """Values as Gemma 4 writes them: marks instead of quotation marks, and names without any."""

    def __init__(self, schema: Any, rules: Rules, spelled: Spelled) -> None:
        """`spelled` writes the marks."""
        super().__init__(schema, rules)
        self._quote = spelled(_GEMMA_QUOTE)

    def fixed_text(self, text: str) -> str:
        """See Maker."""
        if _GEMMA_QUOTE in text:
            raise SchemaRefused("", "a string that has the mark in it that ends it")
        return f"{self._quote} {literal(text)} {self._quote}"

    def key(self, name: str) -> str:
        """See Maker."""
        return literal(name) if _GEMMA_NAME.fullmatch(name) else self.fixed_text(name)

    def other_key(self, taken: set[str]) -> str:
        """See Maker."""
        if taken:
            raise SchemaRefused("", "additionalProperties: names cannot be kept apart from these")
        return self.rules.add("key", "[A-Za-z_] [A-Za-z0-9_]*")

    def free_string(self) -> str:
        """See Maker."""
        return self.rules.add("text", f"{self._quote} {without_marks(self.rules, (_GEMMA_QUOTE,))} {self._quote}")

    def string_of(self, node: Node) -> str:
        """See Maker."""
        inner = raw_expression(node, union(_CONTROL, ((ord("<"),) * 2,)))
        return f"{self._quote} {inner} {self._quote}"

    def string_between(self, low: int, high: int | None) -> str:
        """See Maker."""
        character = character_class(complement(union(_CONTROL, ((ord("<"),) * 2,))))
        return f"{self._quote} {character}{counted(low, high)} {self._quote}"
