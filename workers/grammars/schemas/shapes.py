"""The keywords of schemas that hold at one place, drawn together into one shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from workers.grammars.schemas.rules import SchemaRefused

MAX_COUNT = 1_000_000
"""Characters, items or properties: no answer has so many, so a bound above says nothing."""
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
REFUSED = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "dependentRequired", "dependentSchemas"),
    *("dependencies", "$dynamicRef", "$recursiveRef"),
)
"""What no grammar of a bearable size can hold to. Keywords in no list are annotations, as the specification says."""


@dataclass(frozen=True)
class Part:
    """A schema and its JSON pointer."""

    schema: Any
    path: str

    def at(self, *keys: str | int) -> Part:
        """The part that is found by these keys, one after the other."""
        found, path = self.schema, self.path
        for key in keys:
            found = found[key]
            path += "/" + str(key).replace("~", "~0").replace("/", "~1")
        return Part(found, path)


Parts = tuple[Part, ...]
"""Schemas that hold together at one place."""


@dataclass
class Shape:
    """Parts without alternatives, drawn together."""

    path: str
    types: tuple[str, ...] | None = None
    values: list[Any] | None = None
    low: Decimal | None = None
    low_open: bool = False
    high: Decimal | None = None
    high_open: bool = False
    multiples: list[int] = field(default_factory=list)
    min_length: int = 0
    max_length: int | None = None
    patterns: list[str] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    min_items: int = 0
    max_items: int | None = None
    is_unique: bool = False
    prefix: list[Parts] = field(default_factory=list)
    items: Parts | None = None
    properties: dict[str, Parts] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    additional: Parts | None = None
    """Of properties that are not named; None where nothing is said of them."""
    pattern_properties: dict[str, Parts] = field(default_factory=dict)
    num_object_parts: int = 0
    is_closed: bool = False
    """By `unevaluatedProperties`: what is said of a property anywhere makes it known."""
    names: Parts = ()
    min_properties: int = 0
    max_properties: int | None = None
    said: set[str] = field(default_factory=set)
    """The keywords that there are."""


def is_never(parts: Parts) -> bool:
    """Whether one of them allows no value at all."""
    return any(part.schema is False for part in parts)


def same(value: Any) -> str:
    """Equal for values that JSON Schema calls equal."""

    def plain(one: Any) -> Any:
        if isinstance(one, float) and one.is_integer():
            return int(one)
        if isinstance(one, dict):
            return {key: plain(inner) for key, inner in one.items()}
        return [plain(inner) for inner in one] if isinstance(one, list) else one

    return json.dumps(plain(value), sort_keys=True)


def merged(parts: Parts) -> Shape | None:
    """The parts drawn together; None where nothing can fit them. Raises SchemaRefused."""
    shape = Shape(parts[0].path if parts else "")
    for part in parts:
        if part.schema is False:
            return None
        for keyword in REFUSED:
            if keyword in part.schema:
                raise SchemaRefused(part.path, f"{keyword}: cannot be held to")
        _merge_objects(shape, part)
        _merge_items(shape, part)
        for keyword, value in part.schema.items():
            if (take := _KEYWORDS.get(keyword)) is not None:
                shape.said.add(keyword)
                take(shape, value, part)
        shape.said |= set(_STRUCTURAL) & part.schema.keys()
    if shape.types is not None and not shape.types:
        return None
    return shape


def natural(value: Any, part: Part, keyword: str) -> int:
    """A keyword's value that has to be a whole number from 0 on. Raises SchemaRefused."""
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole or value < 0:
        raise SchemaRefused(part.path, f"{keyword}: a whole number ≥ 0 is wanted")
    return int(value)


def _types(shape: Shape, value: Any, part: Part) -> None:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if name not in TYPES:
            raise SchemaRefused(part.path, f"type: there is no {json.dumps(name)}")
    if "number" in names:
        names = [name for name in names if name != "integer"]
    if shape.types is None:
        shape.types = tuple(dict.fromkeys(names))
        return
    both = [name for name in shape.types if name in names or (name == "integer" and "number" in names)]
    both += [name for name in names if name == "integer" and "number" in shape.types]
    shape.types = tuple(dict.fromkeys(both))


def _values(shape: Shape, value: Any, part: Part) -> None:
    if not isinstance(value, list) or not value:
        raise SchemaRefused(part.path, "enum: a list of values is wanted")
    known = {same(one) for one in value}
    found = value if shape.values is None else [one for one in shape.values if same(one) in known]
    shape.values = list({same(one): one for one in found}.values())


def _bound(value: Any, part: Part, keyword: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 10**300:
        raise SchemaRefused(part.path, f"{keyword}: a number is wanted")
    return Decimal(repr(value))


def _low(shape: Shape, bound: Decimal, *, is_open: bool) -> None:
    if shape.low is None or bound > shape.low or (bound == shape.low and is_open):
        shape.low, shape.low_open = bound, is_open


def _high(shape: Shape, bound: Decimal, *, is_open: bool) -> None:
    if shape.high is None or bound < shape.high or (bound == shape.high and is_open):
        shape.high, shape.high_open = bound, is_open


def _multiple(shape: Shape, value: Any, part: Part) -> None:
    number = _bound(value, part, "multipleOf")
    if number <= 0:
        raise SchemaRefused(part.path, "multipleOf: it has to be greater than 0")
    if number != int(number):
        raise SchemaRefused(part.path, "multipleOf: only whole numbers can be held to")
    shape.multiples.append(int(number))


def _least(name: str) -> Callable[[Shape, Any, Part], None]:
    def take(shape: Shape, value: Any, part: Part) -> None:
        keyword = name.split("_")[0] + name.split("_")[1].capitalize()
        if natural(value, part, keyword) > MAX_COUNT:
            raise SchemaRefused(part.path, f"{keyword}: more than {MAX_COUNT:,}")
        setattr(shape, name, max(getattr(shape, name), natural(value, part, keyword)))

    return take


def _most(name: str) -> Callable[[Shape, Any, Part], None]:
    def take(shape: Shape, value: Any, part: Part) -> None:
        keyword = name.split("_")[0] + name.split("_")[1].capitalize()
        known, new = getattr(shape, name), natural(value, part, keyword)
        if new <= MAX_COUNT:
            setattr(shape, name, new if known is None else min(known, new))

    return take


def _text(name: str, keyword: str) -> Callable[[Shape, Any, Part], None]:
    def take(shape: Shape, value: Any, part: Part) -> None:
        if not isinstance(value, str):
            raise SchemaRefused(part.path, f"{keyword}: a text is wanted")
        getattr(shape, name).append(value)

    return take


def _unique(shape: Shape, value: Any, part: Part) -> None:
    shape.is_unique = shape.is_unique or value is True


def _required(shape: Shape, value: Any, part: Part) -> None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SchemaRefused(part.path, "required: a list of names is wanted")
    shape.required += [name for name in value if name not in shape.required]


def _names(shape: Shape, value: Any, part: Part) -> None:
    shape.names += (part.at("propertyNames"),)


def _merge_items(shape: Shape, part: Part) -> None:
    schema = part.schema
    if not {"items", "prefixItems", "additionalItems", "unevaluatedItems"} & schema.keys():
        return
    prefix, rest = schema.get("prefixItems"), "items"
    if isinstance(schema.get("items"), list):  # until draft 2019-09
        prefix, rest = schema["items"], "additionalItems"
    where = "items" if rest == "additionalItems" else "prefixItems"
    items: Parts | None = (part.at(rest),) if rest in schema else None
    if isinstance(prefix, dict):  # written so by some, meaning `items`
        items = (part.at("prefixItems"), *(items or ()))
        prefix = []
    if schema.get("unevaluatedItems") is False and items is None:
        items = (part.at("unevaluatedItems"),)
    elif "unevaluatedItems" in schema and schema["unevaluatedItems"] not in (False, True):
        raise SchemaRefused(part.path, "unevaluatedItems: cannot be held to")
    if prefix is not None and not isinstance(prefix, list):
        raise SchemaRefused(part.path, f"{where}: a list of schemas is wanted")
    own: list[Parts] = [(part.at(where, index),) for index in range(len(prefix or ()))]
    length = max(len(own), len(shape.prefix))
    one, other = [*shape.prefix], [*own]
    one += [shape.items or ()] * (length - len(one))
    other += [items or ()] * (length - len(other))
    shape.prefix = [(*first, *second) for first, second in zip(one, other, strict=True)]
    if items is not None:
        shape.items = (*(shape.items or ()), *items)


def _merge_objects(shape: Shape, part: Part) -> None:
    schema = part.schema
    for keyword in ("properties", "patternProperties"):
        if not isinstance(schema.get(keyword, {}), dict):
            raise SchemaRefused(part.path, f"{keyword}: schemas by name are wanted")
    own: dict[str, Parts] = {name: (part.at("properties", name),) for name in schema.get("properties", {})}
    patterns: dict[str, Parts] = {
        pattern: (part.at("patternProperties", pattern),) for pattern in schema.get("patternProperties", {})
    }
    additional: Parts | None = (part.at("additionalProperties"),) if "additionalProperties" in schema else None
    if schema.get("unevaluatedProperties") is False:
        shape.is_closed = True
    elif schema.get("unevaluatedProperties", True) is not True:
        raise SchemaRefused(part.path, "unevaluatedProperties: cannot be held to")
    if not (own or patterns or additional):
        return
    shape.num_object_parts += 1
    before = dict(shape.properties)
    for name, parts in own.items():
        others = before.get(name, () if shape.additional is None else shape.additional)
        shape.properties[name] = (*others, *parts)
    if additional is not None:
        for name in before.keys() - own.keys():
            shape.properties[name] = (*before[name], *additional)
        shape.additional = (*(shape.additional or ()), *additional)
    for pattern, parts in patterns.items():
        shape.pattern_properties[pattern] = (*shape.pattern_properties.get(pattern, ()), *parts)


_KEYWORDS: dict[str, Callable[[Shape, Any, Part], None]] = {
    "type": _types,
    "enum": _values,
    "const": lambda shape, value, part: _values(shape, [value], part),
    "minimum": lambda shape, value, part: _low(shape, _bound(value, part, "minimum"), is_open=False),
    "exclusiveMinimum": lambda shape, value, part: _low(shape, _bound(value, part, "exclusiveMinimum"), is_open=True),
    "maximum": lambda shape, value, part: _high(shape, _bound(value, part, "maximum"), is_open=False),
    "exclusiveMaximum": lambda shape, value, part: _high(shape, _bound(value, part, "exclusiveMaximum"), is_open=True),
    "multipleOf": _multiple,
    "minLength": _least("min_length"),
    "maxLength": _most("max_length"),
    "pattern": _text("patterns", "pattern"),
    "format": _text("formats", "format"),
    "minItems": _least("min_items"),
    "maxItems": _most("max_items"),
    "uniqueItems": _unique,
    "minProperties": _least("min_properties"),
    "maxProperties": _most("max_properties"),
    "required": _required,
    "propertyNames": _names,
}
_STRUCTURAL = ("items", "prefixItems", "additionalItems", "properties", "patternProperties", "additionalProperties")
