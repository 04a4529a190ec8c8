"""Tools that a model may call: what a turn offers, what an answer calls, and what came of it.

The shapes are OpenAI's, flattened. A call's arguments are JSON as text, as the model wrote it: a reader parses them
where it runs the call.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from broker.errors import InvalidMessage
from broker.messages.fields import Count

MAX_TOOLS = 128
MAX_TOOLS_BYTES = 64 * 1024
"""Of all tools of a turn, as JSON."""
MAX_TOOLS_DEPTH = 32
"""Of lists and objects in each other in a tool's parameters, the outermost one counted."""
MAX_CALLS = 128
"""In one message."""

ToolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]
CallId = Annotated[str, Meta(min_length=1, max_length=128)]


class Tool(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A function that the model may ask for."""

    name: ToolName
    description: str = ""
    parameters: dict[str, Any] | None = None
    """The JSON schema of its arguments, an object's; None for a tool without any."""


class NamedTool(Struct, frozen=True, forbid_unknown_fields=True):
    """The one tool that must be called."""

    name: ToolName


ToolChoice = Literal["auto", "none", "required"] | NamedTool
"""Whether tools are called as the model likes, never, at least once, or that one is."""


class ToolCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A call, whole: in an answer's end, and in the history of the turns behind it."""

    id: CallId
    name: ToolName
    arguments: str
    """JSON: an object."""

    @property
    def parsed(self) -> dict[str, Any] | None:
        """The arguments; None where the text is no JSON, or no object. No text is no arguments."""
        try:
            found = json.loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


class CallDelta(Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a call. `id` and `name` stand in a call's first delta, and only there."""

    index: Count
    """Of the call in the answer."""
    id: str = ""
    name: str = ""
    arguments: str = ""
    offset: Count = 0
    """How many characters of this attempt's arguments of the call come before."""


def check_tools(tools: tuple[Tool, ...], choice: ToolChoice) -> None:
    """Raises InvalidMessage for more than is taken, two of one name, and a choice of what is not offered."""
    if len(tools) > MAX_TOOLS:
        raise InvalidMessage("tools", f"has {len(tools)} tools, and may have {MAX_TOOLS}")
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            raise InvalidMessage(f"tools[{index}].name", f"{tool.name!r} is the name of an earlier tool")
        seen.add(tool.name)
        if _is_deeper(tool.parameters, MAX_TOOLS_DEPTH):
            raise InvalidMessage(f"tools[{index}].parameters", f"is nested deeper than {MAX_TOOLS_DEPTH}")
    try:
        size = len(msgspec.json.encode(tools))
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidMessage("tools", f"is no JSON: {error}") from None
    if size > MAX_TOOLS_BYTES:
        raise InvalidMessage("tools", f"has {size} bytes, and may have {MAX_TOOLS_BYTES}")
    if isinstance(choice, NamedTool) and choice.name not in seen:
        raise InvalidMessage("tool_choice.name", f"no tool is called {choice.name!r}")
    if choice == "required" and not tools:
        raise InvalidMessage("tool_choice", "no tools are offered")


def _is_deeper(value: object, depth: int) -> bool:
    """Whether lists and objects in it are nested deeper; nothing recurses further than asked."""
    if not isinstance(value, dict | list | tuple):
        return False
    inner: Iterable[object] = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(one, depth - 1) for one in inner)


def grown(calls: tuple[ToolCall, ...], deltas: Iterable[CallDelta]) -> tuple[ToolCall, ...]:
    """The calls with what the deltas add to them. A delta that leaves a hole adds nothing; what of it is known is
    taken once."""
    found = list(calls)
    for delta in deltas:
        if delta.index == len(found) and delta.name and not delta.offset:
            found.append(ToolCall(delta.id, delta.name, delta.arguments))
        elif delta.index < len(found) and delta.offset <= len(found[delta.index].arguments):
            before = found[delta.index]
            known = len(before.arguments) - delta.offset
            found[delta.index] = msgspec.structs.replace(before, arguments=before.arguments + delta.arguments[known:])
    return tuple(found)


def new_deltas(calls: tuple[ToolCall, ...], deltas: Iterable[CallDelta]) -> tuple[CallDelta, ...]:
    """The deltas, less what of them is in the calls already."""
    found = []
    for delta in deltas:
        before = calls[delta.index].arguments if delta.index < len(calls) else ""
        known = max(0, len(before) - delta.offset)
        rest = delta.arguments[known:]
        if delta.index >= len(calls):
            found.append(delta)
        elif rest:
            found.append(CallDelta(delta.index, arguments=rest, offset=delta.offset + known))
    return tuple(found)
