"""Calls that are JSON objects with a name and arguments: Hermes, Qwen, Llama 3, Mistral, Command R, Phi-4, Granite."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass

from workers.calls.calls import Answer, BrokenCall, Call
from workers.calls.json_text import arguments, decoded_string, value
from workers.calls.reader import Reader, Steps, ignore, marks

_CLOSERS = re.compile(r"[\s\]}]+")


@dataclass(frozen=True)
class JsonCalls:
    """One object, several, or a list of them, up to one of `ends` if that is there."""

    ends: tuple[str, ...] = ()
    names: tuple[str, ...] = ("name", "tool_name", "function")
    arguments: tuple[str, ...] = ("arguments", "parameters")
    ids: tuple[str, ...] = ("id", "tool_call_id", "call_id")
    opens: tuple[str, ...] = ()
    """What may stand before all."""
    name_is_key: bool = False
    """The object has one member: the tool's name, and as its value the arguments."""

    def __call__(self, reader: Reader, answer: Answer, mark: str) -> Steps:
        """See Read."""
        yield from reader.space()
        if self.opens:
            yield from reader.take(marks(*self.opens))
        if (yield from reader.space()) == "[":
            yield from reader.character()
            if (yield from reader.space()) == "]":
                yield from reader.character()
                return (yield from self._end(reader))
        while True:
            found = _Object(self, answer)
            yield from found.read(reader)
            following = yield from reader.space()
            if following and following in ",;":
                found.end()
                yield from reader.character()
                following = yield from reader.space()
                if following != "{":
                    return (yield from self._end(reader))
            elif following == "{":
                found.end()
            else:
                end = yield from self._end(reader)
                found.end()
                return end

    def _end(self, reader: Reader) -> Steps:
        yield from reader.run(_CLOSERS, ignore)
        return (yield from reader.take(marks(*self.ends))) if self.ends else ""


class _Object:
    """One call, being read."""

    def __init__(self, keys: JsonCalls, answer: Answer) -> None:
        self._keys = keys
        self._answer = answer
        self._name: str | None = None
        self._id: str | None = None
        self._call: Call | None = None
        self._early: list[str] = []
        """Arguments that came before the name."""
        self._has_arguments = False
        self._is_other = False
        """It has a member that no call has."""

    def end(self) -> None:
        """What has to stand behind it was read."""
        if self._call is not None:
            self._call.end(self._id)

    def read(self, reader: Reader) -> Steps:
        """From its first brace, or first two, to its last; those may be missing where the arguments are whole."""
        if (yield from reader.space()) != "{":
            raise BrokenCall("invalid_syntax")
        yield from reader.character()
        depth = 1
        if (yield from reader.space()) == "{":  # Qwen2.5-Coder's template shows its models a call in two braces
            yield from reader.character()
            depth = 2
        while depth:
            character = yield from reader.space()
            if character == "}":
                yield from reader.character()
                depth -= 1
            elif character == ",":
                yield from reader.character()
            elif character == '"':
                depth += yield from self._member(reader)
            elif self._call is None or not self._has_arguments:
                raise BrokenCall("invalid_json")
            else:
                break
        if self._call is None:
            if self._answer.is_held:
                raise BrokenCall("invalid_syntax")
            if self._name is None or (self._is_other and not self._early):
                raise BrokenCall("invalid_syntax")
            self._call = self._answer.begin(self._name, self._id)
        if self._early or not self._has_arguments:
            self._call.arguments("".join(self._early) or "{}")
        return ""

    def _member(self, reader: Reader) -> Generator[None, None, int]:
        """Returns 1 where its value is an object whose members are the call's, which has been opened."""
        key = yield from decoded_string(reader)
        if (yield from reader.space()) != ":":
            raise BrokenCall("invalid_json")
        yield from reader.character()
        character = yield from reader.space()
        if self._keys.name_is_key and not self._has_arguments:
            self._name, self._has_arguments = key, True
            yield from self._arguments(reader)
        elif key == "function" and character == "{":
            yield from reader.character()
            return 1
        elif key in self._keys.names and character == '"' and self._name is None:
            self._name = yield from decoded_string(reader)
            if self._answer.is_sure and not self._early and self._name in self._answer.names:
                self._call = self._answer.begin(self._name, self._id)
        elif key in self._keys.arguments and not self._has_arguments:
            self._has_arguments = True
            yield from self._arguments(reader)
        elif not self._answer.is_sure and key not in (*self._keys.ids, "type"):
            raise BrokenCall(None)
        else:
            parts: list[str] = []
            is_id = key in self._keys.ids
            yield from value(reader, parts.append if is_id else ignore)
            if is_id:
                self._id = "".join(parts).strip().strip('"')
            elif key != "type":
                self._is_other = True
        return 0

    def _arguments(self, reader: Reader) -> Steps:
        if self._name is None:
            return (yield from arguments(reader, self._early.append))
        call = self._call = self._call or self._answer.begin(self._name, self._id)
        return (yield from arguments(reader, call.arguments))
