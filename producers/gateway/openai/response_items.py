"""The items of the Responses API → a chat's messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from broker.messages import Message, ToolCall
from broker.messages.tools import CallId, ToolName
from producers.gateway.bodies import part
from producers.gateway.errors import ApiError, unsupported

Status = Literal["in_progress", "completed", "incomplete"]


class Text(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message: an answer's come back with what they were told with."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text", "refusal"]
    text: str = ""
    refusal: str = ""
    annotations: tuple[Any, ...] = ()
    logprobs: tuple[Any, ...] = ()
    prompt_cache_breakpoint: Any = None


Content = str | tuple[Text, ...]


class InputMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody said; its type may be left out."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    type: Literal["message"] = "message"
    id: str | None = None
    status: Status | None = None
    phase: str | None = None


class FunctionCall(Struct, frozen=True, forbid_unknown_fields=True):
    """What an answer has called."""

    type: Literal["function_call"]
    call_id: CallId
    name: ToolName
    arguments: str
    id: str | None = None
    status: Status | None = None


class FunctionOutput(Struct, frozen=True, forbid_unknown_fields=True):
    """What came of it."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Content
    id: str | None = None
    status: Status | None = None


class Reasoning(Struct, frozen=True, forbid_unknown_fields=True):
    """Thoughts before an answer."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: tuple[Text, ...] = ()
    content: tuple[Text, ...] = ()
    status: Status | None = None
    encrypted_content: str | None = None


Item = InputMessage | FunctionCall | FunctionOutput | Reasoning
KINDS: dict[str, type[Item]] = {
    "message": InputMessage,
    "function_call": FunctionCall,
    "function_call_output": FunctionOutput,
    "reasoning": Reasoning,
}


def items_of(given: Sequence[dict[str, Any]], unknown: list[str]) -> list[Item]:
    """Raises ApiError, which names the field; what an item has that is not known is added to `unknown`."""
    return [_item(one, f"input[{index}]", unknown) for index, one in enumerate(given)]


def _item(given: dict[str, Any], place: str, unknown: list[str]) -> Item:
    kind = given.get("type") or "message"
    if not isinstance(kind, str) or kind not in KINDS:
        raise unsupported(f"{place}.type", f"cannot be {str(kind)[:60]!r} here: {', '.join(KINDS)}")
    return part(given, KINDS[kind], place, unknown)


def text_of(content: Content) -> str:
    """Parts are texts of their own: a line end between them."""
    return content if isinstance(content, str) else "\n".join(one.text or one.refusal for one in content)


def messages_of(items: Iterable[Item]) -> tuple[Message, ...]:
    """Thoughts, text and calls of one answer are one message."""
    found: list[Message] = []
    thoughts = ""
    for item in items:
        match item:
            case Reasoning():
                thoughts += text_of(item.content or item.summary)
            case InputMessage(role="assistant"):
                found.append(Message("assistant", text_of(item.content), reasoning=thoughts))
                thoughts = ""
            case InputMessage():
                role: Literal["system", "user"] = "user" if item.role == "user" else "system"
                found.append(Message(role, text_of(item.content)))
                thoughts = ""
            case FunctionCall():
                call = ToolCall(item.call_id, item.name, item.arguments)
                if found and found[-1].role == "assistant" and not thoughts:
                    found[-1] = msgspec.structs.replace(found[-1], tool_calls=(*found[-1].tool_calls, call))
                else:
                    found.append(Message("assistant", "", (call,), reasoning=thoughts))
                thoughts = ""
            case FunctionOutput():
                found.append(Message("tool", text_of(item.output), tool_call_id=item.call_id))
                thoughts = ""
    return tuple(found)


def checked(messages: Sequence[Message]) -> None:
    """Raises ApiError where there is nothing to answer."""
    if not messages:
        raise ApiError(400, "input: must not be empty", param="input")
