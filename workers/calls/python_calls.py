"""Calls that are written like Python's: LFM2, Gemma 3's tool_code, Llama's `<|python_tag|>`, Olmo 3, …"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from workers.calls.calls import Answer, BrokenCall, Call
from workers.calls.json_calls import JsonCalls
from workers.calls.json_text import quoted
from workers.calls.named_calls import code, name_of
from workers.calls.python_text import CLOSING, number, value
from workers.calls.reader import Reader, Steps, ignore, marks

_NAME = re.compile(r"[\w.\-]+")
_WORD = re.compile(r"[-+.\w]+")
_PROGRAMS = ("python", "ipython", "code_interpreter")
"""Names of tools that take a program."""
_BETWEEN = re.compile(r"[\s;,]+")


def _name(reader: Reader) -> Steps:
    yield from reader.space()
    return (yield from name_of(reader, _NAME))


def call(reader: Reader, answer: Answer) -> Steps:
    """One `name(argument=value, …)`; a value without a name is the next argument that the schema has."""
    name = yield from _name(reader)
    if (yield from reader.space()) != "(":
        raise BrokenCall("invalid_syntax")
    return (yield from _called(reader, answer, name))


def _called(reader: Reader, answer: Answer, name: str) -> Steps:
    yield from reader.character()
    if not answer.is_sure and name not in (*answer.names, "print"):
        raise BrokenCall(None)
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
    if (yield from reader.peek()) not in ("'", '"', *CLOSING):
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
    begun.arguments(number("".join(name)))
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
