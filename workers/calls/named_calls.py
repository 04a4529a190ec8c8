"""Calls whose name stands before their arguments, which are JSON: Mistral, Functionary, DeepSeek, Kimi, Solar, …"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass

from workers.calls.calls import Answer, BrokenCall
from workers.calls.json_calls import JsonCalls
from workers.calls.json_text import arguments, inside
from workers.calls.reader import Reader, Steps, marks

MAX_NAME = 256
"""Characters of a name, of an id, or of what stands around them; what is longer is none."""
_FENCE = marks("```json", "```")
_NAME = re.compile(r"[^\[{\s]+")
_LINE = re.compile(r"[^\n]+")


def name_of(reader: Reader, characters: re.Pattern[str]) -> Steps:
    """A name of such characters. Raises BrokenCall."""
    parts: list[str] = []
    yield from reader.run(characters, parts.append)
    name = "".join(parts)
    if not name or len(name) > MAX_NAME:
        raise BrokenCall("invalid_syntax")
    return name


def named(reader: Reader, *ends: str) -> Generator[None, None, tuple[str, str]]:
    """A name and the one of `ends` that it ends with, which is read. Raises BrokenCall."""
    parts: list[str] = []
    length = 0

    def kept(text: str) -> None:
        nonlocal length
        length += len(text)
        if length > MAX_NAME:
            raise BrokenCall("invalid_syntax")
        parts.append(text)

    end = yield from reader.until(marks(*ends), kept)
    if not end:
        raise BrokenCall("cut_off")
    return "".join(parts).strip(), end


def code(reader: Reader, answer: Answer, name: str, begun_with: str, *ends: str) -> Steps:
    """A call of a tool that takes a program, which is written as it is: its arguments are {"code": …}. The answer ends
    it, or one of `ends`; `begun_with` was read."""
    if answer.is_held:
        raise BrokenCall("invalid_syntax")
    call = answer.begin(name)
    call.arguments(f'{{"code": "{inside(begun_with)}')
    end = yield from reader.until(marks(*ends), lambda text: call.arguments(inside(text)))
    call.arguments('"}')
    call.end()
    return end


@dataclass(frozen=True)
class NamedCalls:
    """Calls of a section: `begin`, an id, a name, arguments, `end`; each mark but the name's end may be missing."""

    name_ends: tuple[str, ...]
    begins: tuple[str, ...] = ()
    """Of each call; where there are none, the section is one call."""
    id_end: str = ""
    """An id stands first, and ends with this."""
    name_is_id: bool = False
    """The name is `functions.NAME:INDEX`, and all of it the id."""
    has_kind: bool = False
    """What ends with one of `name_ends` may be a kind (`function`): then the name is the rest of that line."""
    ends: tuple[str, ...] = ()
    section_ends: tuple[str, ...] = ()

    def __call__(self, reader: Reader, answer: Answer, mark: str) -> Steps:
        """See Read."""
        if mark not in self.begins and self.begins:
            yield from reader.space()
            if not (yield from reader.take(marks(*self.begins))):
                return (yield from self._section_end(reader))
        while True:
            yield from self._call(reader, answer)
            yield from reader.space()
            if not self.begins or not (yield from reader.take(marks(*self.begins))):
                return (yield from self._section_end(reader))

    def _section_end(self, reader: Reader) -> Steps:
        return (yield from reader.take(marks(*self.section_ends))) if self.section_ends else ""

    def _call(self, reader: Reader, answer: Answer) -> Steps:
        call_id: str | None = None
        if self.id_end:
            call_id, _ = yield from named(reader, self.id_end)
        name, _ = yield from named(reader, *self.name_ends)
        if self.has_kind and (yield from reader.space()) not in ("{", '"'):
            name, _ = yield from named(reader, "\n")
        if self.name_is_id:
            call_id, name = name, name.removeprefix("functions.").rpartition(":")[0] or name
        if not answer.is_sure and name not in answer.names:
            raise BrokenCall(None)
        call = answer.begin(name, call_id)
        yield from reader.space()
        fence = yield from reader.take(_FENCE)
        yield from arguments(reader, call.arguments)
        if fence:
            yield from reader.space()
            yield from reader.take(_FENCE)
        if self.ends:
            yield from reader.space()
            yield from reader.take(marks(*self.ends))
        call.end(call_id)
        return name


_LIST = JsonCalls()


def mistral(reader: Reader, answer: Answer, mark: str) -> Steps:
    """[TOOL_CALLS] with a list of objects, or with `name[CALL_ID]id[ARGS]{…}`; older ones leave the last marks out."""
    if (yield from reader.space()) == "[":
        return (yield from _LIST(reader, answer, mark))
    name = yield from name_of(reader, _NAME)
    call_id = None
    if (yield from reader.take(marks("[CALL_ID]", "[ARGS]"))) == "[CALL_ID]":
        call_id, _ = yield from named(reader, "[ARGS]")
    call = answer.begin(name, call_id)
    yield from arguments(reader, call.arguments)
    call.end(call_id)
    return mark


def functionary(reader: Reader, answer: Answer, mark: str) -> Steps:
    """`>>>name`, a new line and arguments, `>>>all` and text; the prompt ends with the first `>>>`."""
    while True:
        parts: list[str] = []
        yield from reader.run(_LINE, parts.append)
        name = "".join(parts).strip()
        if (yield from reader.character()) != "\n":
            raise BrokenCall(None)
        if name == "all":
            mark = yield from reader.until(marks(">>>"), answer.text)
        elif name in answer.names or (yield from reader.space()) == "{":
            mark = yield from _recipient(reader, answer, name)
        else:
            raise BrokenCall(None)
        if not mark:
            return mark
        answer.section(mark)


def _recipient(reader: Reader, answer: Answer, name: str) -> Steps:
    if name == "python" and (yield from reader.space()) != "{":
        return (yield from code(reader, answer, name, "", ">>>"))
    call = answer.begin(name)
    yield from arguments(reader, call.arguments)
    yield from reader.space()
    call.end()
    return (yield from reader.take(marks(">>>")))
