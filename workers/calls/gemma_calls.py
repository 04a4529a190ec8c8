"""Gemma 4's own calls: `call:name{argument:<|"|>text<|"|>,other:3}`."""

from __future__ import annotations

import re

from workers.calls.calls import Answer, BrokenCall
from workers.calls.json_text import MAX_DEPTH, inside, quoted, word
from workers.calls.named_calls import MAX_NAME
from workers.calls.reader import Reader, Sink, Steps, marks

_QUOTE = marks('<|"|>')
_NAME = re.compile(r"[^\s{}:<,\[\]]+")
_WORD = re.compile(r"[-+.0-9A-Za-z]+")


def gemma(reader: Reader, answer: Answer, mark: str) -> Steps:
    """One call, and the mark behind it if that is there."""
    yield from reader.space()
    if not (yield from reader.take(marks("call:"))):
        raise BrokenCall("invalid_syntax")
    name: list[str] = []
    yield from reader.run(_NAME, name.append)
    if not name or sum(map(len, name)) > MAX_NAME or (yield from reader.space()) != "{":
        raise BrokenCall("invalid_syntax")
    call = answer.begin("".join(name))
    yield from _members(reader, call.arguments, 0)
    yield from reader.space()
    end = yield from reader.take(marks("<tool_call|>"))
    call.end()
    return end


def _members(reader: Reader, sink: Sink, depth: int) -> Steps:
    if depth > MAX_DEPTH:
        raise BrokenCall("invalid_syntax")
    opening = yield from reader.character()
    closing = "}" if opening == "{" else "]"
    sink(opening)
    num = 0
    while (following := (yield from reader.space())) != closing:
        if num:
            if following != ",":
                raise BrokenCall("invalid_syntax")
            yield from reader.character()
            yield from reader.space()
            sink(", ")
        if opening == "{":
            yield from _key(reader, sink)
        yield from _value(reader, sink, depth)
        num += 1
    sink((yield from reader.character()))
    return closing


def _key(reader: Reader, sink: Sink) -> Steps:
    parts: list[str] = []
    if (yield from reader.take(_QUOTE)):
        yield from reader.until(_QUOTE, parts.append)
    else:
        yield from reader.run(_NAME, parts.append)
    if not parts or (yield from reader.space()) != ":":
        raise BrokenCall("invalid_syntax")
    sink(quoted("".join(parts)) + ": ")
    return (yield from reader.character())


def _value(reader: Reader, sink: Sink, depth: int) -> Steps:
    character = yield from reader.space()
    if character in ("{", "["):
        return (yield from _members(reader, sink, depth + 1))
    if (yield from reader.take(_QUOTE)):
        sink('"')
        if not (yield from reader.until(_QUOTE, lambda text: sink(inside(text)))):
            raise BrokenCall("cut_off")
        sink('"')
        return character
    parts: list[str] = []
    yield from reader.run(_WORD, parts.append)
    as_json = word("".join(parts))
    if as_json is None:
        raise BrokenCall("invalid_syntax")
    sink(as_json)
    return character
