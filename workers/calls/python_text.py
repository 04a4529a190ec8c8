"""Python's literals, read as they come and given on as JSON."""

from __future__ import annotations

import re

from workers.calls.calls import BrokenCall
from workers.calls.json_text import MAX_DEPTH, MAX_WORD, inside, quoted, word
from workers.calls.reader import Reader, Sink, Steps, marks

_WORD = re.compile(r"[-+.\w]+")
_POINT = re.compile(r"-?(?:[0-9]+\.|\.[0-9]+)")
_PLAIN = {"'": re.compile(r"[^'\\]+"), '"': re.compile(r'[^"\\]+')}
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_HEX = {"x": 2, "u": 4, "U": 8}
CLOSING = {"[": "]", "(": ")", "{": "}"}
_LAST_SURROGATE = 0xDFFF
_FIRST_SURROGATE = 0xD800
_LAST_CHARACTER = 0x10FFFF


def _escape(reader: Reader) -> Steps:
    """What a backslash, which was read, and what follows it stand for."""
    kind = yield from reader.character()
    if not kind:
        raise BrokenCall("cut_off")
    if kind not in _HEX:
        return _SIMPLE.get(kind, kind if kind in "'\"\\/" else "\\" + kind)
    digits = ""
    while len(digits) < _HEX[kind]:
        digit = yield from reader.character()
        if not digit or digit not in "0123456789abcdefABCDEF":
            raise BrokenCall("invalid_syntax")
        digits += digit
    character = int(digits, 16)
    if _FIRST_SURROGATE <= character <= _LAST_SURROGATE:
        return f"\\u{character:04x}"
    if character > _LAST_CHARACTER:
        raise BrokenCall("invalid_syntax")
    return chr(character)


def string(reader: Reader, sink: Sink) -> Steps:
    """A string literal, or several that follow each other, as one JSON string; the first mark stands here."""
    sink('"')
    while True:
        quote = yield from reader.character()
        ending = yield from reader.take(marks(quote, quote * 2))
        if ending == quote * 2:
            yield from _characters(reader, quote, quote * 3, sink)
        elif not ending:
            yield from _characters(reader, quote, quote, sink)
        following = yield from reader.space()
        if not following or following not in _PLAIN:
            sink('"')
            return following


def _characters(reader: Reader, quote: str, ending: str, sink: Sink) -> Steps:
    while True:
        yield from reader.run(_PLAIN[quote], lambda text: sink(inside(text)))
        if (yield from reader.take(marks(ending))):
            return ending
        character = yield from reader.character()
        if character == "\\":
            escaped = yield from _escape(reader)
            sink(escaped if escaped.startswith("\\u") else inside(escaped))
        elif character:
            sink(inside(character))
        else:
            raise BrokenCall("cut_off")


def value(reader: Reader, sink: Sink, depth: int = 0) -> Steps:
    """A literal, as JSON: strings, numbers, True, False and None, lists, tuples and dictionaries; JSON's words too."""
    character = yield from reader.space()
    if character and character in _PLAIN:
        yield from string(reader, sink)
    elif character and character in CLOSING:
        if depth >= MAX_DEPTH:
            raise BrokenCall("invalid_syntax")
        yield from reader.character()
        yield from _items(reader, sink, character, depth + 1)
    else:
        parts: list[str] = []
        yield from reader.run(_WORD, parts.append)
        sink(number("".join(parts)))
    return character


def number(text: str) -> str:
    """A number or a word of Python's as JSON has it."""
    text = text.replace("_", "").removeprefix("+")
    as_json = word(text)
    if as_json is None and len(text) <= MAX_WORD and _POINT.fullmatch(text):
        as_json = repr(float(text))
    if as_json is None:
        raise BrokenCall("invalid_syntax")
    return as_json


def _items(reader: Reader, sink: Sink, opening: str, depth: int) -> Steps:
    closing = CLOSING[opening]
    sink("{" if opening == "{" else "[")
    num = 0
    while (following := (yield from reader.space())) != closing:
        if num:
            if following != ",":
                raise BrokenCall("invalid_syntax")
            yield from reader.character()
            if (yield from reader.space()) == closing:
                break
            sink(", ")
        if opening == "{":
            key: list[str] = []
            yield from value(reader, key.append, depth)
            name = "".join(key)
            if (yield from reader.space()) != ":":
                raise BrokenCall("invalid_syntax")
            yield from reader.character()
            sink(f"{name if name.startswith(chr(34)) else quoted(name)}: ")
        yield from value(reader, sink, depth)
        num += 1
    yield from reader.character()
    sink("}" if opening == "{" else "]")
    return closing


def as_json(text: str) -> str | None:
    """A whole literal as JSON; None where it is none."""
    reader = Reader()
    reader.feed(text)
    reader.end()
    parts: list[str] = []
    try:
        for _ in value(reader, parts.append):
            pass
    except BrokenCall:
        return None
    return "".join(parts) if reader.is_empty else None
