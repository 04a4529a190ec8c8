"""Arguments that are written as plain text: what they are in JSON, by the tool's schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from workers.calls import python_text
from workers.calls.json_text import loaded, quoted

KINDS = frozenset(("string", "integer", "number", "boolean", "null", "object", "array"))
MAX_PARTS = 256
"""Of a schema, that are looked at: it may refer to itself."""
_SAYING = {"type", "$ref", "enum", "const", "anyOf", "oneOf", "properties", "items"}
_QUOTES = ("'", '"')


def _kind(constant: Any) -> str:
    match constant:
        case bool():
            return "boolean"
        case str():
            return "string"
        case int() | float():
            return "number"
        case None:
            return "null"
        case list():
            return "array"
        case _:
            return "object"


def _named(schema: Mapping[str, Any]) -> Iterator[str]:
    """The kinds that the schema itself names."""
    said = schema.get("type")
    if isinstance(said, str):
        yield said
    elif isinstance(said, list):
        yield from (kind for kind in said if isinstance(kind, str))
    elif isinstance(schema.get("enum"), list):
        yield from map(_kind, schema["enum"])
    elif "const" in schema:
        yield _kind(schema["const"])
    elif "properties" in schema:
        yield "object"
    elif "items" in schema:
        yield "array"


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    target: Any = root
    for part in reference.removeprefix("#/").split("/"):
        target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
    return target


def _alternatives(schema: Mapping[str, Any]) -> list[Any]:
    """Of them the value has one; of all that have to hold together, the first that says something."""
    found = [part for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list) for part in schema[key]]
    together = schema.get("allOf")
    if not found and isinstance(together, list):
        return [part for part in together if isinstance(part, Mapping) and _SAYING & part.keys()][:1]
    return found


def kinds(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """The kinds of value that a schema allows; all of them where it does not say. `root` has its definitions."""
    found: set[str] = set()
    waiting = [schema]
    num_seen = 0
    while waiting:
        part = waiting.pop()
        num_seen += 1
        if not isinstance(part, Mapping) or num_seen > MAX_PARTS:
            return KINDS
        reference = part.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            waiting.append(_referred(reference, root))
            continue
        if part.get("nullable") is True:
            found.add("null")
        if named := set(_named(part)):  # what else is said only narrows it
            found |= named
        elif others := _alternatives(part):
            waiting += others
        else:
            return KINDS
    return frozenset(found)


def member(schema: Mapping[str, Any], name: str) -> Any:
    """The schema of an object's member, None where there is none."""
    properties = schema.get("properties")
    return properties.get(name) if isinstance(properties, Mapping) else None


def as_json(text: str, allowed: frozenset[str]) -> str:
    """A value's text as JSON: what it is by itself, in JSON or Python, if that is allowed, otherwise a string."""
    stripped = text.strip()
    try:
        kind = _kind(loaded(stripped))
    except ValueError:
        literal = python_text.as_json(stripped) if stripped[:1] not in _QUOTES else None
        if literal is None:
            return quoted(text)
        stripped, kind = literal, _kind(loaded(literal))
    is_allowed = kind in allowed or (kind == "number" and "integer" in allowed)
    if kind != "string" and (is_allowed or "string" not in allowed):
        return stripped
    return stripped if kind == "string" and "string" not in allowed else quoted(text)
