"""Tools in rows of conversations: offered, called, answered. As OpenAI's dumps have them, or flat as on the wire. Pure.

All raise ValueError for what is none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from broker.errors import InvalidMessage
from broker.messages import Message, Tool, ToolCall
from broker.messages.tools import MAX_CALLS, check_tools

_OFFERED = ("name", "description", "parameters")


def tools_of(value: object) -> tuple[Tool, ...]:
    """What a row offers."""
    if not isinstance(value, list):
        raise ValueError("its tools are no list")
    try:
        tools = msgspec.convert([_known(_function(one), _OFFERED) for one in value], tuple[Tool, ...])
        check_tools(tools, "auto")
    except (msgspec.ValidationError, InvalidMessage) as error:
        raise ValueError(f"its tools: {error}") from None
    return tools


def calls_of(value: object) -> tuple[ToolCall, ...]:
    """What an assistant's message of a row calls; arguments may be JSON as text, or what that text would say."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_CALLS:
        raise ValueError(f"tool_calls that are no list of at most {MAX_CALLS}")
    found = []
    for one in value:
        call = _known(_function(one), ("name", "arguments"))
        if not isinstance(call.get("arguments", ""), str):
            call["arguments"] = json.dumps(call["arguments"], ensure_ascii=False)
        found.append({"arguments": "{}", **call, "id": one.get("id")})
    try:
        return msgspec.convert(found, tuple[ToolCall, ...])
    except msgspec.ValidationError as error:
        raise ValueError(f"a call that is none: {error}") from None


def check_rounds(messages: Sequence[Message]) -> None:
    """Raises ValueError where a call has no result right behind it, or a result no call."""
    waiting: set[str] = set()
    for number, message in enumerate(messages, 1):
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                raise ValueError(f"its message {number} is the result of no call before it")
            waiting.remove(message.tool_call_id)
            continue
        if waiting:
            raise ValueError(f"its message {number} comes before the result of the call {min(waiting)!r}")
        waiting = {call.id for call in message.tool_calls}
    if waiting:
        raise ValueError(f"the call {min(waiting)!r} has no result")


def result_of(call: ToolCall, messages: Sequence[Message]) -> str:
    """What is recorded as the call's result: that of the same one, else of another one of its tool, else an error."""
    results = {one.tool_call_id: one.content for one in messages if one.role == "tool"}
    of_tool = [one for message in messages for one in message.tool_calls if one.name == call.name]
    same = [one for one in of_tool if one.parsed == call.parsed]
    recorded = same or of_tool
    return results[recorded[0].id] if recorded else f"error: {call.name} is not answered here"


def _function(value: object) -> dict[str, Any]:
    """Flat, or OpenAI's object around it."""
    inner = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(inner, dict):
        raise ValueError(f"a function that is no object: {repr(value)[:40]}")
    return inner


def _known(function: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of its fields that a turn has; null is none."""
    return {name: function[name] for name in names if function.get(name) is not None}
