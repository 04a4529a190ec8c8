"""JSON as models write it, read as it comes and given on as JSON that is right.

What is repaired is what small models get wrong and what has one meaning only: control characters in strings, an escaped
apostrophe, Python's True, False and None.
"""

from __future__ import annotations

import json
import re
from typing import Any

from workers.calls.calls import BrokenCall
from workers.calls.reader import Reader, Sink, Steps

MAX_DEPTH = 64
MAX_WORD = 512
"""Characters of a number: Python's own reader refuses integers of more than 4300 digits."""

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_WORD = re.compile(r"[-+.0-9A-Za-z]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}


def word(text: str) -> str | None:
    """The number or the word that JSON has for this one; None where it is none."""
    if len(text) <= MAX_WORD and _NUMBER.fullmatch(text):
        return text
    return _WORDS.get(text)


def inside(text: str) -> str:
    """A part of a text as it stands in a JSON string, without the quotation marks."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def quoted(text: str) -> str:
    """A text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def _constant(text: str) -> Any:
    raise ValueError(text)


def loaded(text: str) -> Any:
    """Strict JSON, decoded. Raises ValueError; RecursionError is one here."""
    try:
        return json.loads(text, parse_constant=_constant)
    except RecursionError as error:
        raise ValueError("too deep") from error


def escape(reader: Reader, sink: Sink) -> Steps:
    """What stands behind a backslash that was read, as JSON has it."""
    kind = yield from reader.character()
    if kind == "u":
        digits = ""
        while len(digits) < 4:
            digit = yield from reader.character()
            if not digit or digit not in "0123456789abcdefABCDEF":
                raise BrokenCall("invalid_json")
            digits += digit
        sink("\\u" + digits)
    elif kind == "'":
        sink("'")
    elif kind and kind in '"\\/bfnrt':
        sink("\\" + kind)
    else:
        raise BrokenCall("invalid_json")
    return kind


def string(reader: Reader, sink: Sink) -> Steps:
    """A JSON string, with its quotation marks; the first one stands here."""
    sink((yield from reader.character()))
    while True:
        yield from reader.run(_PLAIN, sink)
        character = yield from reader.character()
        if character == "\\":
            yield from escape(reader, sink)
        elif character == '"':
            sink(character)
            return character
        elif character:
            sink(inside(character))
        else:
            raise BrokenCall("cut_off")


def decoded_string(reader: Reader) -> Steps:
    """A JSON string's text."""
    parts: list[str] = []
    yield from string(reader, parts.append)
    return str(json.loads("".join(parts)))


def value(reader: Reader, sink: Sink, depth: int = 0) -> Steps:
    """Any JSON value; white space before it is read, and given on."""
    character = yield from reader.space(sink)
    if character == '"':
        yield from string(reader, sink)
    elif character in ("{", "["):
        if depth >= MAX_DEPTH:
            raise BrokenCall("invalid_json")
        yield from _members(reader, sink, depth + 1)
    else:
        parts: list[str] = []
        yield from reader.run(_WORD, parts.append)
        as_json = word("".join(parts))
        if as_json is None:
            raise BrokenCall("invalid_json")
        sink(as_json)
    return character


def _members(reader: Reader, sink: Sink, depth: int) -> Steps:
    opening = yield from reader.character()
    closing = "}" if opening == "{" else "]"
    sink(opening)
    if (yield from reader.space(sink)) == closing:
        sink((yield from reader.character()))
        return closing
    while True:
        if opening == "{":
            if (yield from reader.space(sink)) != '"':
                raise BrokenCall("invalid_json")
            yield from string(reader, sink)
            if (yield from reader.space(sink)) != ":":
                raise BrokenCall("invalid_json")
            sink((yield from reader.character()))
        yield from value(reader, sink, depth)
        following = yield from reader.space(sink)
        if following not in (closing, ",") or not following:
            raise BrokenCall("invalid_json")
        sink((yield from reader.character()))
        if following == closing:
            return closing


def arguments(reader: Reader, sink: Sink) -> Steps:
    """A call's arguments: a JSON object, as it comes; such an object as a string; or nothing at all, which is {}."""
    character = yield from reader.space()
    if character == "{":
        yield from value(reader, sink)
    elif character == '"':
        text = yield from decoded_string(reader)
        try:
            decoded = loaded(text)
        except ValueError as error:
            raise BrokenCall("invalid_json") from error
        if not isinstance(decoded, dict):
            raise BrokenCall("invalid_arguments")
        sink(text)
    else:
        parts: list[str] = []
        yield from value(reader, parts.append)
        if "".join(parts) != "null":
            raise BrokenCall("invalid_arguments")
        sink("{}")
    return character
