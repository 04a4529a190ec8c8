"""What a parser says of an answer, piece by piece: text, reasoning, and tool calls as they grow."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Reason = Literal["cut_off", "unknown_tool", "invalid_json", "invalid_arguments", "invalid_syntax", "too_many"]
"""Why what looked like a call is none: the answer ended within it; no such tool was offered; its JSON is none, or not
an object; what stands between its marks is not of the syntax; more calls than are allowed."""


class Text(Struct, frozen=True, tag=True):
    """A part of the answer itself."""

    text: str


class Reasoning(Struct, frozen=True, tag=True):
    """A part of what the model thinks before it answers, without its marks."""

    text: str


class CallBegun(Struct, frozen=True, tag=True):
    """A call of an offered tool. `index` counts an answer's calls from 0; `id` is the model's own name for the call,
    None where it has none yet."""

    index: int
    name: str
    id: str | None = None


class Arguments(Struct, frozen=True, tag=True):
    """A part of a call's arguments: the parts of a call, joined, are the text of one JSON object."""

    index: int
    text: str


class CallEnded(Struct, frozen=True, tag=True):
    """The call's arguments are whole. `id` is the model's own name for the call, None if it gave none."""

    index: int
    id: str | None = None


class Broken(Struct, frozen=True, tag=True):
    """What looked like a call is none: `text`, as it was written, is a part of the answer itself. Where the call had
    begun already `index` is the call's, and it is not to be run."""

    reason: Reason
    text: str
    index: int | None = None
    name: str | None = None


Delta = Text | Reasoning | CallBegun | Arguments | CallEnded | Broken
