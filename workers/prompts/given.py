"""Messages and tools as Hugging Face's chat templates know them: plain values, for the child that renders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from broker.messages import Message, Tool, ToolCall
from workers.calls.writing import in_tags
from workers.prompts.tools_form import ToolsForm

Write = Callable[[Sequence[tuple[str, dict[str, Any]]]], Sequence[tuple[str, bool]]]
"""Spells calls, each a tool's name and its arguments, as the model does: a text in parts, and of each whether it is a
mark of the model's syntax. Others are somebody's."""


def messages_for(messages: Iterable[Message], form: ToolsForm, write: Write = in_tags) -> list[dict[str, Any]]:
    """As Hugging Face's chat templates know messages; thoughts by both names that are in use. `write` spells calls as
    the model does, where they stand in an answer's text."""
    names: dict[str, str] = {}
    found = []
    for message in messages:
        one: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning:
            one |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
        names |= {call.id: call.name for call in message.tool_calls}
        if message.tool_calls and form == "content":
            one["written"] = write([(call.name, _object(call)) for call in message.tool_calls])
        elif message.tool_calls:
            one["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _arguments(call, form)},
                }
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            one["tool_call_id"] = message.tool_call_id
            if message.tool_call_id in names:
                one["name"] = names[message.tool_call_id]
        found.append(one)
    return found


def _arguments(call: ToolCall, form: ToolsForm) -> Any:
    """An object where the template wants one and the text is one; else the text as it stands."""
    found = None if form == "text" else call.parsed
    return call.arguments if found is None else found


def _object(call: ToolCall) -> dict[str, Any]:
    found = call.parsed
    return found if found is not None else {"arguments": call.arguments}


def tools_for(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """As OpenAI's API and Hugging Face's chat templates know tools."""
    empty = {"type": "object", "properties": {}}
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": msgspec.to_builtins(tool.parameters) if tool.parameters is not None else empty,
            },
        }
        for tool in tools
    ]
