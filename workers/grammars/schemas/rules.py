"""The rules of a grammar in GBNF: names that never collide, texts and character classes in its spelling."""

from __future__ import annotations

import json
import re
from typing import Any

Ranges = tuple[tuple[int, int], ...]
"""Code points, as sorted pairs of the first and the last."""

MAX_RULES = 20_000


class SchemaRefused(ValueError):
    """A schema, or a part of it, that is not held to; `path` is a JSON pointer to the part."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"at {path or '/'}: {reason}")


class Rules:
    """Rules by name. The same body under the same kind of name is one rule."""

    def __init__(self) -> None:
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def reserve(self, hint: str) -> str:
        """A name for a rule whose body comes later: a rule may refer to itself."""
        stem = re.sub(r"[^a-zA-Z0-9]+", "-", hint).strip("-")[-40:].strip("-") or "rule"
        name, count = stem, 1
        while name in self._bodies:
            count += 1
            name = f"{stem}-{count}"
        if len(self._bodies) >= MAX_RULES:
            raise SchemaRefused("", f"it makes more than {MAX_RULES:,} rules")
        self._bodies[name] = ""
        return name

    def define(self, name: str, body: str) -> None:
        """The body of a reserved name."""
        self._bodies[name] = body

    def add(self, hint: str, body: str) -> str:
        """The name of a rule with this body."""
        if body not in self._names:
            self._names[body] = name = self.reserve(hint)
            self.define(name, body)
        return self._names[body]

    @property
    def sizes(self) -> tuple[int, int]:
        """How much there is, to come back to where a part that is made cannot be."""
        return len(self._bodies), len(self._names)

    def back_to(self, sizes: tuple[int, int]) -> None:
        """Without what was added since: half of it may have no body yet."""
        for added, size in zip((self._bodies, self._names), sizes, strict=True):
            while len(added) > size:
                added.popitem()

    def __str__(self) -> str:
        return "".join(f"{name} ::= {body}\n" for name, body in self._bodies.items())


def literal(text: str) -> str:
    """A text in quotes."""
    return '"' + "".join(map(_in_quotes, text)) + '"'


def _in_quotes(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character == "\n":
        return "\\n"
    return f"\\x{ord(character):02X}" if character < " " or character == "\x7f" else character


def character_class(ranges: Ranges) -> str:
    """A class of characters; one character is a text in quotes."""
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return literal(chr(ranges[0][0]))
    parts = [_in_class(low) if low == high else f"{_in_class(low)}-{_in_class(high)}" for low, high in ranges]
    return "[" + "".join(parts) + "]"


def _in_class(code: int) -> str:
    if code < 0x80:
        character = chr(code)
        return character if character.isalnum() else f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def union(*sets: Ranges) -> Ranges:
    """What is in any of them."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(one for ranges in sets for one in ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """What is not in it, of all code points that text can have."""
    found, at = [], 0
    for low, high in union(ranges, ((0xD800, 0xDFFF),)):
        if at < low:
            found.append((at, low - 1))
        at = high + 1
    return (*found, (at, 0x10FFFF)) if at <= 0x10FFFF else tuple(found)


def without(ranges: Ranges, taken: Ranges) -> Ranges:
    """What is in the first and not in the second."""
    return complement(union(complement(ranges), taken))


def text_of(value: Any) -> str:
    """A value's JSON as a text in quotes of GBNF."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:
        raise SchemaRefused("", f"a value that JSON text cannot hold: {value!r:.60}") from None
    return literal(text.replace("\x7f", "\\u007f"))
