"""A chat's messages and tools as Ollama has them, and an answer's calls. Pure.

Calls have their arguments as objects, and clients keep no ids: those of a history are made by their places, and a
tool's message is the result of the first call of that name, else of any, that has none yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.messages import Message, Tool, ToolCall
from broker.messages.tools import MAX_CALLS, CallId, ToolName
from producers.gateway.endings import to_be_answered
from producers.gateway.errors import ApiError

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


class CalledFunction(Struct, frozen=True, forbid_unknown_fields=True):
    """What is called, and with what."""

    name: ToolName
    arguments: dict[str, Any] | str = {}
    """An object; other libraries' clients send its text."""
    index: int | None = None

    @property
    def text(self) -> str:
        """The arguments as a turn has them."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments, ensure_ascii=False)


class Call(Struct, frozen=True, forbid_unknown_fields=True):
    """A call of an assistant's message."""

    function: CalledFunction
    id: Annotated[str, Meta(max_length=128)] | None = None
    type: str | None = None
    index: int | None = None


class Function(Struct, frozen=True, forbid_unknown_fields=True):
    """A function that is offered."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class OfferedTool(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool."""

    function: Function
    type: str = "function"

    @property
    def tool(self) -> Tool:
        """As a turn has it."""
        return Tool(self.function.name, self.function.description or "", self.function.parameters)


class ChatMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """A message as the API has it."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: tuple[Any, ...] | None = None
    tool_calls: Annotated[tuple[Call, ...], Meta(max_length=MAX_CALLS)] | None = None
    tool_name: str | None = None
    """Of a tool's message: whose result it is."""
    tool_call_id: CallId | None = None


def history_of(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """As a turn has them. Raises ApiError for what it cannot have."""
    found: list[Message] = []
    open_calls: list[ToolCall] = []
    num_calls = 0
    for index, one in enumerate(messages):
        role = ROLES.get(one.role.lower())
        if role is None:
            message = f"messages[{index}].role: must be one of {', '.join(ROLES)}, not {one.role[:60]!r}"
            raise ApiError(400, message, param=f"messages[{index}].role")
        if one.images:
            raise no_images(f"messages[{index}].images")
        content = one.content or ""
        match role:
            case "assistant":
                calls = tuple(
                    ToolCall(call.id or _id(num_calls + place), call.function.name, call.function.text)
                    for place, call in enumerate(one.tool_calls or ())
                )
                num_calls += len(calls)
                if calls:
                    open_calls = list(calls)
                found.append(Message("assistant", content, calls, reasoning=one.thinking or ""))
            case "tool":
                found.append(Message("tool", content, tool_call_id=_answered(one, open_calls) or _id(num_calls)))
            case "system":
                found.append(Message("system", content))
            case _:
                found.append(Message("user", content))
    return to_be_answered(found)


def _answered(message: ChatMessage, open_calls: list[ToolCall]) -> str | None:
    """The id of the call whose result a tool's message is, which has its result then."""
    if message.tool_call_id is not None:
        open_calls[:] = [one for one in open_calls if one.id != message.tool_call_id]
        return message.tool_call_id
    named = (one for one in open_calls if one.name == message.tool_name)
    if (fitting := next(named, open_calls[0] if open_calls else None)) is None:
        return None
    open_calls.remove(fitting)
    return fitting.id


def _id(number: int) -> str:
    """Nine letters and digits: the templates that want ids at all take no others."""
    return f"call{number:05d}"


def no_images(field: str) -> ApiError:
    """The models here read text."""
    return ApiError(400, f"{field}: images are not supported", param=field, code="unsupported_parameter")


def tool_calls(calls: Iterable[ToolCall]) -> list[dict[str, Any]]:
    """Of an answer. Arguments that are no object, as a model may write them that is not held to a grammar, are none."""
    return [
        {"id": call.id, "function": {"index": index, "name": call.name, "arguments": call.parsed or {}}}
        for index, call in enumerate(calls)
    ]
