"""Arguments that are written as plain text: what they are in JSON, by the tool's schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from workers.calls import python_text
from workers.calls.json_text import loaded, quoted

KINDS = frozenset(("string", "integer", "number", "boolean", "null", "object", "array"))
_MAX_DEPTH = 16
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


def kinds(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The kinds of value that a schema allows; all of them where it does not say. `root` has its definitions."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return KINDS
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        return kinds(target, root, depth + 1)
    found = frozenset(_named(schema))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            found = found.union(*(kinds(part, root, depth + 1) for part in schema[key]))
    if not found and isinstance(schema.get("allOf"), list):
        found = KINDS.intersection(*(kinds(part, root, depth + 1) for part in schema["allOf"]))
    if schema.get("nullable") is True:
        found |= {"null"}
    return found or KINDS


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
