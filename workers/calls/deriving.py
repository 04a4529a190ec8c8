"""The syntax of a template that nobody knows, read off what it writes of a call with these words, and of an answer.

llama.cpp derives its parsers so, by the differences of many renderings. Two are enough to find the marks around an
object, around a name and an object, or around each argument.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from workers.calls.deltas import Arguments, CallEnded
from workers.calls.json_calls import JsonCalls
from workers.calls.named_calls import NamedCalls
from workers.calls.parser import Parser
from workers.calls.syntax import Form, Syntax, Tool
from workers.calls.tagged_calls import Tags

PROBE = Tool(
    "first_probe",
    {
        "type": "object",
        "properties": {
            "left_probe": {"type": "string", "description": "One."},
            "right_probe": {"type": "string", "description": "Two."},
        },
        "required": ["left_probe", "right_probe"],
    },
)
"""The tool that the template is to offer and to call."""
ARGUMENTS = {"left_probe": "value one", "right_probe": "value two"}
"""What it is called with."""
ANSWER = "An answer without a call."
NAME = "derived"
MAX_TEXT = 2048
"""Characters of a call: templates are strangers'."""
MAX_MARK = 80
"""Characters of a mark: what is longer is prose."""

_BETWEEN_TAGS = re.compile(r"(?=<)")
_NO_THOUGHT = re.compile(r"\s*(?:<[^<>/]+>\s*)?</[^<>]+>\s*")
"""An empty thought, or the end of one that the prompt began."""


class Written(Struct, frozen=True):
    """What a template makes of a conversation with PROBE offered."""

    prompt: str
    """Of a question alone."""
    call: str
    """Of the same question and an answer that calls PROBE with ARGUMENTS, without any text; other turns may follow."""
    answer: str
    """Of the same question, ANSWER, and what may follow; empty where the template takes none."""


def derived(written: Written) -> Syntax | None:
    """A syntax in which that call is read; None where there is no telling."""
    before, name, behind = _behind(written.prompt, written.call).strip().partition(PROBE.name)
    turn_end = _tags(written.answer.rpartition(ANSWER)[2])[:1]
    text = before + name + (behind.partition(turn_end[0])[0] if turn_end else behind).rstrip()
    text = _NO_THOUGHT.sub("", text, count=1) if _NO_THOUGHT.match(text) else text
    if len(text) > MAX_TEXT or text.count(PROBE.name) != 1:
        return None
    for read_off in (_object, _named, _tagged):
        syntax = read_off(text)
        if syntax is not None and _is_read(syntax, text):
            return syntax
    return None


def _behind(prompt: str, text: str) -> str:
    """What is not the prompt's; a tag in which they part is none of it."""
    same = next((at for at, (one, other) in enumerate(zip(prompt, text, strict=False)) if one != other), len(prompt))
    tag = text.rfind("<", 0, same)
    return text[tag if tag >= 0 and ">" not in text[tag:same] else same :]


def _is_read(syntax: Syntax, text: str) -> bool:
    parser = Parser(syntax, [PROBE])
    deltas = [*parser.feed(text), *parser.finish()]
    arguments = "".join(delta.text for delta in deltas if isinstance(delta, Arguments))
    return isinstance(deltas[-1], CallEnded) and json.loads(arguments) == ARGUMENTS


def _tags(text: str) -> list[str]:
    return [tag for part in _BETWEEN_TAGS.split(text) if (tag := part.strip())]


def _objects(text: str, start: int, end: int) -> Iterator[tuple[int, int, Any]]:
    """The JSON objects that begin there: from, to, and what they are."""
    for found in re.finditer("{", text[start:end]):
        begin = start + found.start()
        try:
            value, behind = json.JSONDecoder().raw_decode(text, begin)
        except (ValueError, RecursionError):
            continue
        yield begin, behind, value


def _are_marks(*texts: str) -> bool:
    return all(len(text) <= MAX_MARK for text in texts)


def _object(text: str) -> Syntax | None:
    """An object that has the name in it, or a list of such."""
    name = text.index(PROBE.name)
    begin, end, value = next(((*found,) for found in _objects(text, 0, name) if found[1] > name), (0, 0, None))
    inside = next((found for found in _objects(text, name, len(text)) if found[2] == ARGUMENTS), None)
    if value is None or inside is None:
        return None
    start, closing = text[:begin], text[end:]
    is_list = start.rstrip().endswith("[") and closing.lstrip().startswith("]")
    mark = start.rstrip().removesuffix("[").strip() if is_list else start.strip()
    closing_mark = closing.lstrip().removeprefix("]").strip() if is_list else closing.strip()
    if not mark or not _are_marks(mark, closing_mark):
        return None
    members = value["function"] if isinstance(value.get("function"), dict) else value
    calls = JsonCalls(
        ends=(closing_mark,) if closing_mark else (),
        names=tuple(key for key, part in members.items() if part == PROBE.name) or JsonCalls.names,
        arguments=tuple(key for key, part in members.items() if part == ARGUMENTS) or JsonCalls.arguments,
        name_is_key=PROBE.name in members,
    )
    behind_name = text[name + len(PROBE.name) : inside[0]]
    form = Form(text[begin:name], behind_name, text[inside[1] : end], start, closing, ", " if is_list else None)
    return Syntax(NAME, calls, (mark,), form)


def _named(text: str) -> Syntax | None:
    """A name, a mark, and an object that is the arguments."""
    name = text.index(PROBE.name)
    found = next((found for found in _objects(text, name, len(text)) if found[2] == ARGUMENTS), None)
    if found is None:
        return None
    before, between, behind = text[:name], text[name + len(PROBE.name) : found[0]], text[found[1] :]
    starts, ends = _tags(before), _tags(behind)
    if not starts or not between or not _are_marks(before, between, behind):
        return None
    calls = NamedCalls(
        name_ends=(between.strip() or between,),
        begins=(starts[-1],) if len(starts) > 1 else (),
        ends=tuple(ends[:1]),
        section_ends=tuple(ends[1:2]),
    )
    return Syntax(NAME, calls, tuple(dict.fromkeys((starts[0], starts[-1]))), Form(before, between, behind))


def _tagged(text: str) -> Syntax | None:
    """A tag for each argument."""
    words = [PROBE.name, *(word for pair in ARGUMENTS.items() for word in pair)]
    places = [text.find(word) for word in words]
    if -1 in places or places != sorted(places):
        return None
    ends = [place + len(word) for place, word in zip(places, words, strict=True)]
    before, to_key, in_key, to_next, _, behind = (
        text[begin:end] for begin, end in zip([0, *ends], [*places, len(text)], strict=True)
    )
    starts, key_marks, next_marks, last_marks = map(_tags, (before, in_key, to_next, behind))
    before_key = next_marks[-1] if next_marks else ""
    if not starts or not key_marks or not before_key or not to_key.endswith(before_key) or len(last_marks) < 2:
        return None
    if in_key.startswith('"'):  # the name is an attribute, and others may follow it
        key_marks = ['"', in_key.rpartition('"')[2].strip()]
    is_line = in_key.endswith("\n") and to_next.startswith("\n")
    tags = Tags(
        before_name="" if starts[-1].endswith(">") else starts[-1],
        tag_end=to_key.removesuffix(before_key).strip(),
        before_key=before_key,
        after_key=key_marks[0],
        before_value=key_marks[1] if len(key_marks) > 1 else "",
        after_value=next_marks[0],
        end=last_marks[1],
        section_ends=tuple(last_marks[2:3]),
        lines=is_line,
        cdata=True,
    )
    form = Form(
        before,
        to_key.removesuffix(before_key),
        behind.partition(next_marks[0])[2].lstrip(),
        arguments="tagged",
        before_key=before_key,
        before_text=in_key,
        before_value=in_key,
        after_value=to_next.removesuffix(before_key),
    )
    return Syntax(NAME, tags, (starts[0],), form)
