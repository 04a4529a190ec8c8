"""Objects: the properties that a schema names, in its order, then those that it only describes."""

from __future__ import annotations

from typing import Protocol

from workers.grammars.schemas import patterns
from workers.grammars.schemas.combine import Schema
from workers.grammars.schemas.patterns import counted, matches
from workers.grammars.schemas.regex import PatternRefused
from workers.grammars.schemas.rules import Rules, SchemaRefused, character_class, complement, union
from workers.grammars.schemas.shapes import Parts, Shape, is_never

MAX_COUNTED = 4_000
"""States of optional properties and how many there are so far."""
_NOT_IN_NAMES = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F))


class Maker(Protocol):
    """Makes the rules of whole values. workers.grammars.schemas.grammar has it."""

    schema: Schema
    rules: Rules

    def ws(self) -> str:
        """The name of the rule for white space."""
        ...

    def value(self, parts: Parts) -> str:
        """The name of the rule for values that the parts allow."""
        ...

    def key(self, name: str) -> str:
        """A member's name, as it is written."""
        ...

    def other_key(self, taken: set[str]) -> str:
        """The name of the rule for a member's name that is none of these."""
        ...


def object_body(maker: Maker, shape: Shape) -> str | None:
    """What an object of this shape looks like; None where there can be none."""
    members = named_members(maker, shape)
    if members is None:
        return None
    ws = maker.ws()
    named = [
        (name, maker.rules.add(f"{name}-kv", f'{maker.key(name)} {ws} ":" {ws} {maker.value(parts)}'), is_required)
        for name, parts, is_required in members
    ]
    extra = _extra(maker, shape, {name for name, _, _ in named})
    required = sum(is_required for _, _, is_required in named)
    low, high = shape.min_properties, shape.max_properties
    most = None if extra is not None else len(named)
    if (high is not None and high < max(low, required)) or (most is not None and low > most):
        return None
    if low <= required:
        low = 0
    if high is not None and most is not None and high >= most:
        high = None
    fields = [(entry, is_required) for _, entry, is_required in named]
    is_counted = low > 0 or high is not None
    if is_counted:
        inner = _counted(maker, shape, fields, extra, (low, high))
    else:
        inner = chain(maker.rules, f'"," {ws}', fields, extra)
    if inner is None:
        return None
    return f'"{{" {ws} {inner} {ws} "}}"' if inner else f'"{{" {ws} "}}"'


def named_members(maker: Maker, shape: Shape) -> list[tuple[str, Parts, bool]] | None:
    """(name, what its value is, is required) in order; None where a required one cannot be. Raises SchemaRefused."""
    if shape.names and (shape.properties or shape.required):
        raise SchemaRefused(shape.path, "propertyNames: cannot be held to together with named properties")
    if shape.pattern_properties and shape.num_object_parts > 1:
        raise SchemaRefused(shape.path, "patternProperties: cannot be drawn together with other schemas")
    wanted: dict[str, Parts] = dict(shape.properties)
    for name in shape.required:
        of_patterns = any(matches(pattern, name, shape.path) for pattern in shape.pattern_properties)
        if shape.is_closed and shape.additional is None and not of_patterns and name not in wanted:
            return None
        wanted.setdefault(name, () if of_patterns else shape.additional or ())
    found: list[tuple[str, Parts, bool]] = []
    for name, own in wanted.items():
        matching = [
            part
            for pattern, parts in shape.pattern_properties.items()
            if matches(pattern, name, shape.path)
            for part in parts
        ]
        parts = (*own, *matching)
        is_required = name in shape.required
        if is_never(parts) or (not is_required and not maker.schema.shapes(parts)):
            if is_required:
                return None
            continue
        found.append((name, parts, is_required))
    return found


def _extra(maker: Maker, shape: Shape, taken: set[str]) -> str | None:
    """The rule of a property that has no name in the schema; None where there is to be none."""
    ws = maker.ws()
    entries = []
    for pattern, parts in shape.pattern_properties.items():
        if taken:
            raise SchemaRefused(shape.path, "patternProperties: cannot be held to together with named properties")
        if not is_never(parts):
            entries.append(f'{_name_like(maker, shape, pattern)} {ws} ":" {ws} {maker.value(parts)}')
    if len(shape.pattern_properties) > 1:
        raise SchemaRefused(shape.path, "patternProperties: more than one pattern cannot be held to")
    if shape.pattern_properties and shape.additional is not None and not is_never(shape.additional):
        raise SchemaRefused(shape.path, "additionalProperties: cannot be held to beside patternProperties")
    said = shape.additional
    if (
        said is None
        and not shape.is_closed
        and not shape.properties
        and not shape.required
        and not shape.pattern_properties
    ):
        said = ()
    if said is not None and not shape.pattern_properties and not is_never(said):
        name = maker.value(shape.names) if shape.names else maker.other_key(set(shape.properties) | taken)
        entries.append(f'{name} {ws} ":" {ws} {maker.value(said)}')
    return maker.rules.add("more-kv", " | ".join(entries)) if entries else None


def _name_like(maker: Maker, shape: Shape, pattern: str) -> str:
    try:
        return f'"\\"" {patterns.expression(patterns.parse(pattern), maker.rules)} "\\""'
    except PatternRefused as error:
        raise SchemaRefused(shape.path, f"patternProperties: {error}") from None


def other_name(rules: Rules, taken: set[str]) -> str:
    """The rule for a name in JSON that is none of these. Without escapes, by which one could be spelt otherwise."""
    free = rules.add("name-char", character_class(complement(_NOT_IN_NAMES)))
    if not taken:
        return rules.add("name", f'"\\"" {free}* "\\""')

    def after(prefix: str) -> str:
        """What may follow a prefix that one of the names has."""
        followers = {name[len(prefix)] for name in taken if name.startswith(prefix) and len(name) > len(prefix)}
        codes = tuple((ord(one), ord(one)) for one in sorted(followers))
        options = [] if prefix in taken else ['""']
        options.append(f"{character_class(complement(union(_NOT_IN_NAMES, codes)))} {free}*")
        for one in sorted(followers):
            if ord(one) >= 0x20 and one not in '"\\\x7f':
                options.append(f"{character_class(((ord(one), ord(one)),))} ({after(prefix + one)})")
        return " | ".join(options)

    if sum(map(len, taken)) > MAX_COUNTED or max(map(len, taken)) > 200:
        raise SchemaRefused("", "additionalProperties: too many names to keep others apart from")
    return rules.add("other-name", f'"\\"" ({after("")}) "\\""')


def chain(rules: Rules, comma: str, fields: list[tuple[str, bool]], extra: str | None) -> str:
    """The properties one behind another, with commas between those that are there; of each, whether it has to be."""
    begun = f"({comma} {extra})*" if extra else ""
    fresh = f"({extra} {begun})?" if extra else ""
    for entry, is_required in reversed(fields):
        more = rules.add("more", begun) if len(begun) > 40 else begun
        rest = rules.add("rest", fresh) if len(fresh) > 40 else fresh
        if is_required:
            fresh = f"{entry} {more}".rstrip()
            begun = f"{comma} {entry} {more}".rstrip()
        else:
            fresh = f"({entry} {more} | {rest})" if rest else f"({entry} {more})?"
            begun = f"({comma} {entry})? {more}".rstrip()
    return fresh


def _counted(
    maker: Maker, shape: Shape, fields: list[tuple[str, bool]], extra: str | None, bounds: tuple[int, int | None]
) -> str | None:
    """The same with a number of properties within bounds."""
    low, high = bounds
    limit = high if high is not None else low
    if (len(fields) + 1) * (limit + 1) > MAX_COUNTED:
        raise SchemaRefused(shape.path, "minProperties, maxProperties: too many to count")
    comma = f'"," {maker.ws()} '
    names: dict[tuple[int, int], str | None] = {}

    def rest(at: int, count: int) -> str | None:
        count = min(count, limit + 1) if high is None else count
        if (at, count) in names:
            return names[at, count]
        if high is not None and count > high:
            return None
        body = _last(count) if at == len(fields) else _step(at, count)
        names[at, count] = None if body is None else maker.rules.add("count", body)
        return names[at, count]

    def _last(count: int) -> str | None:
        missing, room = max(0, low - count), None if high is None else high - count
        if extra is None or room == 0:
            return '""' if missing == 0 else None
        if count:
            return f"({comma}{extra}){counted(missing, room)}"
        tail = f"{extra} ({comma}{extra}){counted(max(0, missing - 1), None if room is None else room - 1)}"
        return tail if missing else f"({tail})?"

    def _step(at: int, count: int) -> str | None:
        entry, is_required = fields[at]
        taken, left = rest(at + 1, count + 1), None if is_required else rest(at + 1, count)
        options = [f"{comma if count else ''}{entry} {taken}"] if taken is not None else []
        return " | ".join(options + ([left] if left is not None else [])) or None

    return rest(0, 0)
