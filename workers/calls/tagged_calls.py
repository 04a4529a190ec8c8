"""Calls with a tag for each argument: Qwen3-Coder, Seed-OSS, GLM, MiniMax, DeepSeek V3.2, Kimi K3, MiniCPM5, …"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass

from workers.calls.calls import Answer, BrokenCall, Call
from workers.calls.json_text import inside, quoted
from workers.calls.named_calls import name_of, named
from workers.calls.reader import Marks, Reader, Sink, Steps, ignore, marks
from workers.calls.values import KINDS, as_json, kinds, member

_NAME = re.compile(r'[^\s<>"]+')
_CDATA = marks("<![CDATA[")
_STRING = ('string="true"', 'type="string"')
_OTHER = ('string="false"', 'type="')


class Lines:
    """A value's text on its way to a sink: without the new line before it, and the one behind it."""

    def __init__(self, sink: Sink) -> None:
        """Hands on to `sink`."""
        self._sink = sink
        self._kept: str | None = None

    def __call__(self, text: str) -> None:
        """More of it."""
        if self._kept is None and text:
            text = text.removeprefix("\n")
            self._kept = ""
        text = (self._kept or "") + text
        whole = text.removesuffix("\n")
        self._kept = text[len(whole) :]
        if whole:
            self._sink(whole)


@dataclass(frozen=True)
class Tags:
    """`before_name`, the name, what else is in the tag up to `tag_end`; for each argument `before_key`, its name,
    `after_key`, what else is there up to `before_value`, the value, `after_value`; `end`."""

    before_key: str
    after_key: str
    after_value: str
    end: str
    before_name: str = ""
    tag_end: str = ""
    before_value: str = ""
    begins: str = ""
    """The mark of each call, where a section has several and they begin with one."""
    section_ends: tuple[str, ...] = ()
    lines: bool = False
    """A value stands on lines of its own."""
    cdata: bool = False
    """A value may be a CDATA section."""
    ignored: tuple[str, ...] = ()
    """What may stand between tags."""

    def __call__(self, reader: Reader, answer: Answer, mark: str) -> Steps:
        """See Read."""
        section, first = marks(*self.section_ends), self.begins or self.before_name
        is_begun = mark == first or not first
        while True:
            if not is_begun:
                yield from reader.space()
                is_begun = bool((yield from reader.take(marks(first))))
            if not is_begun:
                return (yield from self._section_end(reader, answer, section))
            mark = yield from self._call(reader, answer)
            if mark != self.end or not self.section_ends:
                return mark
            is_begun = False

    def _section_end(self, reader: Reader, answer: Answer, section: Marks) -> Steps:
        if not answer.is_call:
            raise BrokenCall("invalid_syntax")
        return (yield from reader.take(section))

    def _call(self, reader: Reader, answer: Answer) -> Steps:
        yield from reader.space()
        name = yield from name_of(reader, _NAME)
        if not answer.is_sure and name not in answer.names:
            raise BrokenCall(None)
        if self.tag_end:
            yield from named(reader, self.tag_end)
        call = answer.begin(name)
        opening = "{"
        while True:
            yield from reader.space()
            mark = yield from reader.take(self._between)
            if mark in self.ignored and mark:
                continue
            if mark != self.before_key:
                break
            key, _ = yield from named(reader, self.after_key)
            attributes = ""
            if self.before_value:
                attributes, _ = yield from named(reader, self.before_value)
            call.arguments(f"{opening}{quoted(key)}: ")
            yield from self._value(reader, call, key, attributes)
            opening = ", "
        if mark != self.end and mark not in self.section_ends:
            raise BrokenCall("invalid_syntax")
        call.arguments("{}" if opening == "{" else "}")
        call.end()
        return mark

    @property
    def _between(self) -> Marks:
        return marks(self.before_key, self.end, *self.section_ends, *self.ignored)

    def _value(self, reader: Reader, call: Call, key: str, attributes: str) -> Steps:
        allowed = kinds(member(call.schema, key), call.schema)
        if any(said in attributes for said in _STRING):
            allowed = frozenset(("string",))
        elif any(said in attributes for said in _OTHER):
            allowed = KINDS
        is_text = allowed == {"string"}
        parts: list[str] = []
        sink: Sink = (lambda text: call.arguments(inside(text))) if is_text else parts.append
        if is_text:
            call.arguments('"')
        yield from self._raw(reader, Lines(sink) if self.lines else sink)
        call.arguments('"' if is_text else as_json("".join(parts), allowed))
        return ""

    def _raw(self, reader: Reader, sink: Sink) -> Steps:
        """A value's text. Its end is one behind which the call goes on, or ends."""
        if self.cdata and (yield from reader.take(_CDATA)):
            yield from reader.until(marks("]]>"), sink)
            return (yield from reader.until(marks(self.after_value), ignore))
        while True:
            mark = yield from reader.until(marks(self.after_value), sink)
            if not mark:
                raise BrokenCall("cut_off")
            parts = [mark]
            following = yield from reader.space(parts.append)
            if not following or (yield from reader.sees(self._between)):
                return mark
            sink("".join(parts))


@dataclass(frozen=True)
class NestedTags:
    """A tag named like each argument, with an element for each member of an object and each item of a list; `mark`
    stands before each tag (MiniMax M3)."""

    mark: str

    def __call__(self, reader: Reader, answer: Answer, mark: str) -> Steps:
        """See Read."""
        invoke = marks(f'{self.mark}<invoke name="')
        while True:
            yield from reader.space()
            if not (yield from reader.take(invoke)):
                if not answer.is_call:
                    raise BrokenCall("invalid_syntax")
                return (yield from reader.take(marks(f"{self.mark}</tool_call>")))
            name, _ = yield from named(reader, '">')
            call = answer.begin(name)
            yield from self._elements(reader, call, call.schema, f"{self.mark}</invoke>", 0)
            call.end()

    def _elements(
        self, reader: Reader, call: Call, schema: object, closing: str, depth: int
    ) -> Generator[None, None, None]:
        """The elements up to `closing`: an object's members, or a list's items where the first is one."""
        following = marks(closing, f"{self.mark}<")
        num, is_list = 0, False
        while True:
            yield from reader.space()
            mark = yield from reader.take(following)
            if mark == closing:
                break
            if not mark or depth > len(KINDS):
                raise BrokenCall("invalid_syntax")
            tag, _ = yield from named(reader, ">")
            is_list = tag == "item" if not num else is_list
            call.arguments((("[" if is_list else "{") if not num else ", ") + ("" if is_list else f"{quoted(tag)}: "))
            part = schema.get("items") if is_list and isinstance(schema, dict) else None
            yield from self._element(reader, call, part if is_list else _of(schema, tag, call), tag, depth)
            num += 1
        if not num:
            call.arguments("[]" if kinds(schema, call.schema) == {"array"} else "{}")
        else:
            call.arguments("]" if is_list else "}")

    def _element(self, reader: Reader, call: Call, schema: object, tag: str, depth: int) -> Generator[None, None, None]:
        closing = f"{self.mark}</{tag}>"
        allowed = kinds(schema, call.schema)
        if "string" not in allowed and allowed & {"object", "array"}:
            yield from reader.space()
            if (yield from reader.sees(marks(f"{self.mark}<"))) or allowed <= {"object", "array"}:
                yield from self._elements(reader, call, schema, closing, depth + 1)
                return
        parts: list[str] = []
        if not (yield from reader.until(marks(closing), parts.append)):
            raise BrokenCall("cut_off")
        call.arguments(as_json("".join(parts), allowed))


def _of(schema: object, name: str, call: Call) -> object:
    """A member's schema, in whichever alternative has it."""
    if not isinstance(schema, dict):
        return None
    found = member(schema, name)
    for key in ("anyOf", "oneOf"):
        for part in schema.get(key) or ():
            found = found or (member(part, name) if isinstance(part, dict) else None)
    return found
