"""What holds at one place of a schema: references and `allOf` drawn together, `anyOf` and `oneOf` made alternatives."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from workers.grammars.schemas.rules import SchemaRefused
from workers.grammars.schemas.shapes import Part, Parts, Shape, is_never, merged, same

MAX_ALTERNATIVES = 256
MAX_PARTS = 512
"""That hold at one place."""


class Schema:
    """A whole schema, asked what holds where."""

    def __init__(self, root: Any) -> None:
        self._root = Part(root, "")

    def shapes(self, parts: Parts) -> list[Shape]:
        """The alternatives of what holds together, each drawn together, without empty ones. Raises SchemaRefused."""
        return [shape for alternative in self._alternatives(parts, 0) if (shape := merged(alternative)) is not None]

    def key(self, parts: Parts) -> str:
        """The same for the same schemas."""
        return "\0".join(sorted({f"#{part.path}" for part in self._drawn(parts)}))

    def _drawn(self, parts: Parts) -> Parts:
        """With all that references and `allOf` add, each once."""
        found: dict[str, Part] = {}
        waiting = list(reversed(parts))
        while waiting:
            part = waiting.pop()
            if part.path in found or part.schema is True:
                continue
            found[part.path] = part
            if len(found) > MAX_PARTS:
                raise SchemaRefused(part.path, f"more than {MAX_PARTS} schemas hold at one place")
            if part.schema is False:
                continue
            if not isinstance(part.schema, dict):
                raise SchemaRefused(part.path, "a schema is an object, true or false")
            waiting += reversed(self._added(part))
        return tuple(found.values())

    def _added(self, part: Part) -> list[Part]:
        added = []
        if "$ref" in part.schema:
            target = self._resolved(part)
            if target.path == part.path:
                raise SchemaRefused(part.path, "$ref: it refers to itself")
            added.append(target)
        if "allOf" in part.schema:
            added += _listed(part, "allOf")
        return added

    def _resolved(self, part: Part) -> Part:
        reference = part.schema["$ref"]
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise SchemaRefused(part.path, f"$ref: {reference!r} is not within the schema (#/…)")
        found = self._root
        for token in reference[2:].split("/") if len(reference) > 1 else ():
            key = unquote(token).replace("~1", "/").replace("~0", "~")
            if isinstance(found.schema, list) and key.isascii() and key.isdigit() and int(key) < len(found.schema):
                found = found.at(int(key))
            elif isinstance(found.schema, dict) and key in found.schema:
                found = found.at(key)
            else:
                raise SchemaRefused(part.path, f"$ref: there is no {reference}")
        return found

    def _alternatives(self, parts: Parts, depth: int) -> list[Parts]:
        drawn = self._drawn(parts)
        if depth > 16:
            raise SchemaRefused(drawn[0].path, "alternatives are nested too deep, or refer to themselves")
        found: list[Parts] = [tuple(part for part in drawn if part.schema is not True)]
        for part in drawn:
            for keyword in ("anyOf", "oneOf"):
                if isinstance(part.schema, dict) and keyword in part.schema:
                    options = [self._alternatives((one,), depth + 1) for one in _listed(part, keyword)]
                    if keyword == "oneOf":
                        options = self._exclusive(part, options)
                    chosen = [one for option in options for one in option]
                    found = [_together(one, other) for one in found for other in chosen]
                    if len(found) > MAX_ALTERNATIVES:
                        raise SchemaRefused(part.path, f"{keyword}: more than {MAX_ALTERNATIVES} combinations")
        return found

    def _exclusive(self, part: Part, options: list[list[Parts]]) -> list[list[Parts]]:
        """The options of `oneOf`, of which no text may fit two."""
        for index, some in enumerate(options):
            for others in options[index + 1 :]:
                for at, one in enumerate(some):
                    for other_at, other in enumerate(others):
                        told = self._told_apart(one, other)
                        if told is None:
                            reason = (
                                "a value could fit more than one; `anyOf`, or a required property with a `const` each"
                            )
                            raise SchemaRefused(part.path, f"oneOf: {reason}")
                        some[at], others[other_at] = _together(one, told), _together(other, told)
                        one = some[at]
        return options

    def _told_apart(self, one: Parts, other: Parts) -> Parts | None:
        """What to add to both so that no text fits both; None where nothing is known that would do."""
        first, second = merged(one), merged(other)
        if first is None or second is None or _is_disjoint(first, second):
            return ()
        if first.types == second.types == ("object",):
            for name in first.properties.keys() & second.properties.keys():
                values = [self._values(shape.properties[name]) for shape in (first, second)]
                if values[0] is not None and values[1] is not None and not values[0] & values[1]:
                    return (Part({"required": [name]}, f"\0required {name}"),)
            if _lacks(first, second) and _lacks(second, first):
                return ()
        return None

    def _values(self, parts: Parts) -> set[str] | None:
        found: set[str] = set()
        for shape in self.shapes(parts):
            if shape.values is None:
                return None
            found |= set(map(same, shape.values))
        return found


def _together(one: Parts, other: Parts) -> Parts:
    return tuple({part.path: part for part in (*one, *other)}.values())


def _listed(part: Part, keyword: str) -> list[Part]:
    found = part.schema[keyword]
    if not isinstance(found, list) or not found:
        raise SchemaRefused(part.path, f"{keyword}: a list of schemas is wanted")
    return [part.at(keyword, index) for index in range(len(found))]


def _is_disjoint(one: Shape, other: Shape) -> bool:
    if one.types is not None and other.types is not None:
        kinds = [{"number" if kind == "integer" else kind for kind in shape.types or ()} for shape in (one, other)]
        if not kinds[0] & kinds[1]:
            return True
    if one.values is not None and other.values is not None:
        return not set(map(same, one.values)) & set(map(same, other.values))
    return _is_below(one, other) or _is_below(other, one)


def _is_below(one: Shape, other: Shape) -> bool:
    numbers = {"number", "integer"}
    if one.high is None or other.low is None or not {*(one.types or ("",)), *(other.types or ("",))} <= numbers:
        return False
    return one.high < other.low or (one.high == other.low and (one.high_open or other.low_open))


def _lacks(one: Shape, other: Shape) -> bool:
    """Whether what is made for `one` never has a property that `other` requires."""
    is_closed = one.additional is None and bool(one.properties or not one.said.isdisjoint({"patternProperties"}))
    is_closed = is_closed or (one.additional is not None and is_never(one.additional))
    return is_closed and not one.pattern_properties and any(name not in one.properties for name in other.required)
