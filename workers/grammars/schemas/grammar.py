"""JSON schemas as grammars in GBNF. Everything in a schema is held to, or the schema is refused by what is not.

What is made is narrower than what is valid in some places: properties come in the order of the schema, and those that
it does not name only where it speaks of them; white space is a blank, or a line end and up to twenty blanks.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from workers.grammars.schemas import formats, patterns
from workers.grammars.schemas.combine import Schema
from workers.grammars.schemas.numbers import integer_range, multiples, number_range
from workers.grammars.schemas.objects import object_body, other_name
from workers.grammars.schemas.patterns import counted, matches
from workers.grammars.schemas.regex import Node, PatternRefused
from workers.grammars.schemas.rules import Rules, SchemaRefused, text_of
from workers.grammars.schemas.shapes import TYPES, Part, Parts, Shape, is_never, same

CHARACTER = (
    r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2} '
    r'| [dD] [89abAB] [0-9a-fA-F]{2} "\\u" [dD] [c-fC-F] [0-9a-fA-F]{2}))'
)
_IMPLIED = {
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties"),
    ),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
MAX_UNIQUE = 256


def gbnf_of_schema(schema: Any) -> str:
    """A grammar whose texts are JSON that is valid by the schema. Raises SchemaRefused."""
    return Maker(schema).grammar()


class Maker:
    """Makes the rules of one schema, whose values are written as JSON. Another spelling overrides how a text, a name
    and a word are written."""

    def __init__(self, schema: Any, rules: Rules | None = None) -> None:
        """`rules` are those of a grammar that it is a part of; without them it is one of its own."""
        self.schema = Schema(schema)
        self.rules = Rules() if rules is None else rules
        self._root: Parts = (Part(schema, ""),)
        self._made: dict[str, str] = {}

    def grammar(self) -> str:
        """All rules, `root` first. Raises SchemaRefused."""
        root = self.rules.reserve("root")
        self.rules.define(root, self.value(self._root))
        return str(self.rules)

    def value(self, parts: Parts) -> str:
        """The name of the rule for what holds together."""
        key = self.schema.key(parts)
        if key not in self._made:
            path = parts[0].path if parts else ""
            self._made[key] = name = self.rules.reserve(path.rpartition("/")[2] if key else "value")
            shapes = self.schema.shapes(parts)
            bodies = [body for shape in shapes for body in self._bodies(shape)]
            if not bodies:
                raise SchemaRefused(path, "no value is valid")
            self.rules.define(name, " | ".join(dict.fromkeys(bodies)))
        return self._made[key]

    def ws(self) -> str:
        """The name of the rule for white space."""
        return self.rules.add("ws", '"" | " " | "\\n" [ \\t]{0,20}')

    def character(self) -> str:
        """The name of the rule for a character of a string."""
        return self.rules.add("char", CHARACTER)

    def free_string(self) -> str:
        """The name of the rule for any string."""
        return self.rules.add("string", f'"\\"" {self.character()}* "\\""')

    def fixed_text(self, text: str) -> str:
        """That string and no other."""
        return text_of(text)

    def key(self, name: str) -> str:
        """A member's name."""
        return self.fixed_text(name)

    def other_key(self, taken: set[str]) -> str:
        """The name of the rule for a member's name that is none of these."""
        return other_name(self.rules, taken)

    def word(self, value: Any) -> str:
        """A number, true, false or null; an empty object or list."""
        return text_of(value)

    def string_of(self, node: Node) -> str:
        """A string of those characters."""
        return f'"\\"" {patterns.expression(node, self.rules)} "\\""'

    def string_between(self, low: int, high: int | None) -> str:
        """Any string of so many characters."""
        return f'"\\"" {self.character()}{counted(low, high)} "\\""'

    def _bodies(self, shape: Shape) -> list[str]:
        if shape.values is not None:
            return [self._fixed(value) for value in shape.values if self._admits(value, shape)]
        return [body for kind in self._kinds(shape) if (body := self._typed(kind, shape)) is not None]

    def _kinds(self, shape: Shape) -> tuple[str, ...]:
        if shape.types is not None:
            return shape.types
        implied = tuple(kind for kind, keywords in _IMPLIED.items() if shape.said & set(keywords))
        return implied or tuple(kind for kind in TYPES if kind != "integer")

    def _typed(self, kind: str, shape: Shape) -> str | None:
        match kind:
            case "object":
                return object_body(self, shape)
            case "array":
                return self._array(shape)
            case "string":
                return self._string(shape)
            case "boolean":
                return f"{self.word(True)} | {self.word(False)}"
            case "null":
                return self.word(None)
        return self._number(kind, shape)

    def _fixed(self, value: Any) -> str:
        """A value as it stands; white space may be where it always may."""
        if isinstance(value, dict) and value:
            fields = [f'{self.key(name)} {self.ws()} ":" {self.ws()} {self._fixed(one)}' for name, one in value.items()]
            return f'"{{" {self.ws()} ' + f' "," {self.ws()} '.join(fields) + f' {self.ws()} "}}"'
        if isinstance(value, list) and value:
            return f'"[" {self.ws()} ' + f' "," {self.ws()} '.join(map(self._fixed, value)) + f' {self.ws()} "]"'
        return self.fixed_text(value) if isinstance(value, str) else self.word(value)

    # --- Strings ---

    def _string(self, shape: Shape) -> str | None:
        node = self._text(shape)
        if node is not None:
            return self.string_of(node)
        if shape.max_length is not None and shape.max_length < shape.min_length:
            return None
        if shape.min_length == 0 and shape.max_length is None:
            return self.free_string()
        return self.string_between(shape.min_length, shape.max_length)

    def _text(self, shape: Shape) -> Node | None:
        """The one pattern or format of a string, within its lengths; None for a string without."""
        wanted = [("pattern", pattern) for pattern in dict.fromkeys(shape.patterns)]
        for name in dict.fromkeys(shape.formats):
            if name in formats.PATTERNS:
                wanted.append(("format", f"^(?:{formats.PATTERNS[name]})$"))
            elif name in formats.UNHELD:
                raise SchemaRefused(shape.path, f"format: {name!r} cannot be held to")
        if not wanted:
            return None
        if len(wanted) > 1:
            raise SchemaRefused(
                shape.path, f"{wanted[1][0]}: more than one pattern or format cannot be held to together"
            )
        keyword, pattern = wanted[0]
        try:
            node = patterns.parse(pattern)
        except PatternRefused as error:
            raise SchemaRefused(shape.path, f"{keyword}: {error}") from None
        found = patterns.limited(node, shape.min_length, shape.max_length)
        if found is None:
            raise SchemaRefused(shape.path, f"{keyword}: cannot be held to together with minLength or maxLength")
        return found

    # --- Numbers ---

    def _number(self, kind: str, shape: Shape) -> str | None:
        low, high = shape.low, shape.high
        for name in shape.formats:
            if name in formats.INTEGERS:
                begin, end = map(Decimal, formats.INTEGERS[name])
                low, high = max(begin, low if low is not None else begin), min(end, high if high is not None else end)
        if kind == "number" and not shape.multiples:
            return number_range(low, high, low_open=shape.low_open, high_open=shape.high_open)
        first = last = None
        if low is not None:
            first = math.floor(low) + 1 if shape.low_open else math.ceil(low)
        if high is not None:
            last = math.ceil(high) - 1 if shape.high_open else math.floor(high)
        if not shape.multiples:
            return integer_range(first, last)
        found = multiples(math.lcm(*shape.multiples), first, last)
        if found is None:
            raise SchemaRefused(shape.path, "multipleOf: cannot be held to within these bounds")
        return self._automaton(found) if isinstance(found, dict) else found or None

    def _automaton(self, bodies: dict[str, str]) -> str:
        names = {name: self.rules.reserve(f"multiple-{name}") for name in bodies}
        for name, body in bodies.items():
            self.rules.define(names[name], re.sub(r"\b[rm]\d+\b", lambda match: names[match[0]], body))
        return names["m0"]

    # --- Arrays ---

    def _array(self, shape: Shape) -> str | None:
        prefix = shape.prefix[: shape.max_items]
        low, high = shape.min_items, shape.max_items
        if shape.items is not None and is_never(shape.items):
            high = len(prefix) if high is None else min(high, len(prefix))
        elif shape.items is None and prefix and low <= len(prefix):
            high = len(prefix)
        if high is not None and low > high:
            return None
        if shape.is_unique and (high is None or high > 1):
            return self._unique(shape, low, high)
        ws = self.ws()
        parts = [self.value(one) for one in prefix]
        more = (max(0, low - len(prefix)), None if high is None else high - len(prefix))
        if more[1] == 0:
            inner = f' "," {ws} '.join(parts)
            return f'"[" {ws} {inner} {ws} "]"' if parts else f'"[" {ws} "]"'
        item = self.value(shape.items or ())
        if parts:
            return f'"[" {ws} ' + f' "," {ws} '.join(parts) + f' ("," {ws} {item}){counted(*more)} {ws} "]"'
        first, rest = max(0, more[0] - 1), None if more[1] is None else more[1] - 1
        tail = "" if rest == 0 else f' ("," {ws} {item}){counted(first, rest)}'
        inner = f"{item}{tail} {ws}"
        return f'"[" {ws} ({inner})? "]"' if low == 0 else f'"[" {ws} {inner} "]"'

    def _unique(self, shape: Shape, low: int, high: int | None) -> str | None:
        """Where the items are of few values: some of them, in the order in which the schema has them."""
        values = None if shape.prefix else self._few(shape.items or ())
        if values is None:
            raise SchemaRefused(shape.path, "uniqueItems: can be held to for the values of an `enum` only")
        most = len(values) if high is None else min(high, len(values))
        if len(values) * (most + 1) > MAX_UNIQUE * 16:
            raise SchemaRefused(shape.path, "uniqueItems: too many values")
        if low > most:
            return None
        ws = self.ws()
        names: dict[tuple[int, int], str | None] = {}

        def rest(at: int, count: int) -> str | None:
            """What may follow when `count` were taken of the values before `at`."""
            if (at, count) in names:
                return names[at, count]
            options = ['""'] if count >= low else []
            if count < most:
                for index in range(at, len(values)):
                    if (then := rest(index + 1, count + 1)) is not None:
                        comma = f'"," {ws} ' if count else ""
                        options.append(f"{comma}{self._fixed(values[index])} {then}".strip())
            names[at, count] = self.rules.add("some", " | ".join(options)) if options else None
            return names[at, count]

        begin = rest(0, 0)
        return None if begin is None else f'"[" {ws} {begin} {ws} "]"'

    def _few(self, parts: Parts) -> list[Any] | None:
        values: list[Any] = []
        for shape in self.schema.shapes(parts):
            if shape.values is not None:
                values += [one for one in shape.values if self._admits(one, shape)]
            elif shape.types is not None and set(shape.types) <= {"boolean", "null"}:
                values += [one for kind in shape.types for one in ([None] if kind == "null" else [False, True])]
            else:
                return None
        return list({same(value): value for value in values}.values())

    # --- Values ---

    def _admits(self, value: Any, shape: Shape) -> bool:
        """Whether a value of an `enum` is valid by what stands beside it."""
        if shape.types is not None and not any(_is_of(value, kind) for kind in shape.types):
            return False
        if isinstance(value, str):
            is_long = len(value) >= shape.min_length and (shape.max_length is None or len(value) <= shape.max_length)
            of_formats = [f"^(?:{formats.PATTERNS[name]})$" for name in shape.formats if name in formats.PATTERNS]
            return is_long and all(matches(pattern, value, shape.path) for pattern in (*shape.patterns, *of_formats))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _is_within(value, shape)
        if isinstance(value, list):
            return self._admits_list(value, shape)
        return self._admits_object(value, shape) if isinstance(value, dict) else True

    def _fits(self, value: Any, parts: Parts) -> bool:
        return any(
            (shape.values is None or same(value) in map(same, shape.values)) and self._admits(value, shape)
            for shape in self.schema.shapes(parts)
        )

    def _admits_list(self, value: list[Any], shape: Shape) -> bool:
        if len(value) < shape.min_items or (shape.max_items is not None and len(value) > shape.max_items):
            return False
        if shape.is_unique and len(set(map(same, value))) < len(value):
            return False
        parts = [*shape.prefix, *[shape.items or ()] * len(value)]
        return all(self._fits(one, part) for one, part in zip(value, parts, strict=False))

    def _admits_object(self, value: dict[str, Any], shape: Shape) -> bool:
        if not set(shape.required) <= value.keys() or len(value) < shape.min_properties:
            return False
        if shape.max_properties is not None and len(value) > shape.max_properties:
            return False
        for name, one in value.items():
            found = [*shape.properties.get(name, ())]
            of_patterns = [
                parts for pattern, parts in shape.pattern_properties.items() if matches(pattern, name, shape.path)
            ]
            found += [part for parts in of_patterns for part in parts]
            if name not in shape.properties and not of_patterns:
                if shape.is_closed and shape.additional is None:
                    return False
                found += shape.additional or ()
            if not self._fits(one, tuple(found)) or (shape.names and not self._fits(name, shape.names)):
                return False
        return True


def _is_of(value: Any, kind: str) -> bool:
    match value:
        case None:
            return kind == "null"
        case bool():
            return kind == "boolean"
        case int():
            return kind in ("integer", "number")
        case float():
            return kind == "number" or (kind == "integer" and value.is_integer())
        case str():
            return kind == "string"
        case list():
            return kind == "array"
    return kind == "object"


def _is_within(value: float, shape: Shape) -> bool:
    number = Decimal(repr(value))
    if shape.low is not None and (number < shape.low or (number == shape.low and shape.low_open)):
        return False
    if shape.high is not None and (number > shape.high or (number == shape.high and shape.high_open)):
        return False
    return all(number % multiple == 0 for multiple in shape.multiples)
