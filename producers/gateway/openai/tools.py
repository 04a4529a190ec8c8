"""Tools as the OpenAI API has them: offered, chosen, called, and in its names what is wrong with them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from broker.messages import CallDelta, NamedTool, Tool, ToolCall, ToolChoice
from broker.messages.tools import MAX_CALLS, CallId, ToolName


class Function(Struct, frozen=True, forbid_unknown_fields=True):
    """A function that is offered. All calls follow their schema, so `strict` asks for nothing."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool: the API knows others, that are not for models of one's own."""

    type: Literal["function"]
    function: Function

    @property
    def tool(self) -> Tool:
        """As a turn has it."""
        return Tool(self.function.name, self.function.description or "", self.function.parameters)


class FunctionName(Struct, frozen=True, forbid_unknown_fields=True):
    """Which function."""

    name: ToolName


class NamedFunction(Struct, frozen=True, forbid_unknown_fields=True):
    """The one that must be called."""

    type: Literal["function"]
    function: FunctionName


Choice = Literal["auto", "none", "required"] | NamedFunction


class CalledFunction(Struct, frozen=True, forbid_unknown_fields=True):
    """What is called, and with what: JSON as text."""

    name: ToolName
    arguments: str = ""


class Call(Struct, frozen=True, forbid_unknown_fields=True):
    """A call of an assistant's message; put together of a stream it still has its `index`."""

    id: CallId
    function: CalledFunction
    type: Literal["function"] = "function"
    index: Annotated[int, Meta(ge=0)] | None = None


Calls = Annotated[tuple[Call, ...], Meta(max_length=MAX_CALLS)]


def choice_of(choice: Choice | None) -> ToolChoice:
    """As a turn has it."""
    return NamedTool(choice.function.name) if isinstance(choice, NamedFunction) else choice or "auto"


def calls_of(calls: Iterable[Call]) -> tuple[ToolCall, ...]:
    """As a message of a turn has them."""
    return tuple(ToolCall(one.id, one.function.name, one.function.arguments) for one in calls)


_NAMES = (
    (re.compile(r"^(tools\[\d+\])\.(name|description|parameters)"), r"\1.function.\2"),
    (re.compile(r"^tool_choice\.name"), "tool_choice.function.name"),
    (re.compile(r"^(messages\[\d+\])\.reasoning"), r"\1.reasoning_content"),
    (re.compile(r"^sampling\."), ""),
)


def param_of(field: str) -> str:
    """The request's name of a turn's field."""
    for pattern, name in _NAMES:
        field = pattern.sub(name, field)
    return field


# --- Answers ---


def tool_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Of a whole answer."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def tool_call_deltas(deltas: Iterable[CallDelta]) -> list[dict[str, Any]]:
    """What a chunk adds to calls, one object for each; a call's first has its id and name."""
    found: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        one = found.setdefault(delta.index, {"index": delta.index, "function": {"arguments": ""}})
        if delta.name:
            one |= {"id": delta.id, "type": "function", "function": {"name": delta.name} | one["function"]}
        one["function"]["arguments"] += delta.arguments
    return [*found.values()]
