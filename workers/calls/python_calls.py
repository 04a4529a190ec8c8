"""Calls that are written like Python's: LFM2, Gemma 3's tool_code, Llama's `<|python_tag|>`, Olmo 3, …"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from workers.calls.calls import Answer, BrokenCall, Call
from workers.calls.json_calls import JsonCalls
from workers.calls.json_text import MAX_DEPTH, inside, quoted, word
from workers.calls.named_calls import MAX_NAME, code
from workers.calls.reader import Reader, Sink, Steps, ignore, marks

_NAME = re.compile(r"[\w.\-]+")
_WORD = re.compile(r"[-+.\w]+")
_POINT = re.compile(r"-?(?:[0-9]+\.|\.[0-9]+)")
_PLAIN = {"'": re.compile(r"[^'\\]+"), '"': re.compile(r'[^"\\]+')}
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_HEX = {"x": 2, "u": 4, "U": 8}
_PROGRAMS = ("python", "ipython", "code_interpreter")
"""Names of tools that take a program."""
_BETWEEN = re.compile(r"[\s;,]+")
_CLOSING = {"[": "]", "(": ")", "{": "}"}
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
    elif character and character in _CLOSING:
        if depth >= MAX_DEPTH:
            raise BrokenCall("invalid_syntax")
        yield from reader.character()
        yield from _items(reader, sink, character, depth + 1)
    else:
        parts: list[str] = []
        yield from reader.run(_WORD, parts.append)
        sink(_number("".join(parts)))
    return character


def _number(text: str) -> str:
    """A number or a word of Python's as JSON has it."""
    text = text.replace("_", "").removeprefix("+")
    as_json = word(text)
    if as_json is None and len(text) <= MAX_NAME and _POINT.fullmatch(text):
        as_json = repr(float(text))
    if as_json is None:
        raise BrokenCall("invalid_syntax")
    return as_json


def _items(reader: Reader, sink: Sink, opening: str, depth: int) -> Steps:
    closing = _CLOSING[opening]
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


def _name(reader: Reader) -> Steps:
    parts: list[str] = []
    yield from reader.space()
    yield from reader.run(_NAME, parts.append)
    name = "".join(parts)
    if not name or len(name) > MAX_NAME:
        raise BrokenCall("invalid_syntax")
    return name


def call(reader: Reader, answer: Answer) -> Steps:
    """One `name(argument=value, …)`; a value without a name is the next argument that the schema has."""
    name = yield from _name(reader)
    if (yield from reader.space()) != "(":
        raise BrokenCall("invalid_syntax")
    return (yield from _called(reader, answer, name))


def _called(reader: Reader, answer: Answer, name: str) -> Steps:
    yield from reader.character()
    if name == "print" and name not in answer.names:
        yield from call(reader, answer)
        if (yield from reader.space()) == ")":
            yield from reader.character()
        return name
    begun = answer.begin(name if name in answer.names else name.removesuffix(".call"))
    properties = begun.schema.get("properties")
    order = iter(properties if isinstance(properties, dict) else ())
    opening = "{"
    while (following := (yield from reader.space())) != ")":
        if opening != "{":
            if following != ",":
                raise BrokenCall("invalid_syntax")
            yield from reader.character()
            if (yield from reader.space()) == ")":
                break
        yield from _argument(reader, begun, opening, order)
        opening = ", "
    yield from reader.character()
    begun.arguments("{}" if opening == "{" else "}")
    begun.end()
    return name


def _argument(reader: Reader, begun: Call, opening: str, order: Iterator[str]) -> Steps:
    name: list[str] = []
    if (yield from reader.peek()) not in ("'", '"', *_CLOSING):
        yield from reader.run(_WORD, name.append)
        if (yield from reader.space()) == "=":
            yield from reader.character()
            begun.arguments(f"{opening}{quoted(''.join(name))}: ")
            return (yield from value(reader, begun.arguments))
    key = next(order, None if begun.index is not None else "")
    if key is None:
        raise BrokenCall("invalid_syntax")
    begun.arguments(f"{opening}{quoted(key)}: ")
    if not name:
        return (yield from value(reader, begun.arguments))
    begun.arguments(_number("".join(name)))
    return key


@dataclass(frozen=True)
class PythonCalls:
    """A list of calls, or calls on lines of their own, up to one of `ends` if that is there."""

    ends: tuple[str, ...] = ()

    def __call__(self, reader: Reader, answer: Answer, mark: str) -> Steps:
        """See Read."""
        is_list = (yield from reader.space()) == "["
        if is_list:
            yield from reader.character()
        if (yield from reader.space()) != "]":
            yield from call(reader, answer)
        while True:
            yield from reader.run(_BETWEEN, ignore)
            if is_list and (yield from reader.peek()) == "]":
                yield from reader.character()
                yield from reader.space()
                is_list = False
            if self.ends and (yield from reader.take(marks(*self.ends))):
                return mark
            following = yield from reader.peek()
            if not is_list and not (self.ends and following):
                return mark
            yield from call(reader, answer)


def python_tag(reader: Reader, answer: Answer, mark: str) -> Steps:
    """Llama's `<|python_tag|>`: a JSON object, `name.call(…)`, or a program for a tool that takes one."""
    if (yield from reader.space()) == "{":
        return (yield from _OBJECTS(reader, answer, mark))
    parts: list[str] = []
    yield from reader.run(_NAME, parts.append)
    name = "".join(parts)
    is_call = name in answer.names or name.endswith(".call")
    if is_call and (yield from reader.peek()) == "(":
        return (yield from _called(reader, answer, name))
    program = next((tool for tool in _PROGRAMS if tool in answer.names), None)
    if program is None:
        raise BrokenCall("unknown_tool")
    return (yield from code(reader, answer, program, name))


_OBJECTS = JsonCalls()
