"""What a chat template is given: messages, tools and variables as plain values for the child, and there as texts that
know whose they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import msgspec

from broker.messages import Message, Tool, ToolCall
from workers.prompts.provenance import Sourced, edge_of, of_message
from workers.prompts.tools_form import ToolsForm

_WORDS = frozenset(
    ("role", "content", "name", "tool_calls", "tool_call_id", "id", "type", "function", "arguments",
     "reasoning_content", "thinking")
)  # fmt: skip
"""The protocol's own names in a message: all others are somebody's text."""


Written = Sequence[tuple[str, bool]]
"""A text in parts, and of each whether it is a mark of the model's own syntax: others are somebody's."""


def in_tags(calls: Iterable[ToolCall]) -> Written:
    """Calls as Hermes writes them."""
    found: list[tuple[str, bool]] = []
    for call in calls:
        body = json.dumps({"name": call.name, "arguments": _arguments(call, "object")}, ensure_ascii=False)
        found += [("<tool_call>", True), (f"\n{body}\n", False), ("</tool_call>", True)]
    return found


def messages_for(
    messages: Iterable[Message], form: ToolsForm, write: Callable[[Iterable[ToolCall]], Written] = in_tags
) -> list[dict[str, Any]]:
    """As Hugging Face's chat templates know messages; thoughts by both names that are in use. `write` spells calls as
    the model does, where they stand in an answer's text."""
    names: dict[str, str] = {}
    found = []
    for message in messages:
        one: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning:
            one |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
        if message.tool_calls and form == "content":
            one["written"] = write(message.tool_calls)
        elif message.tool_calls:
            one["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": _arguments(call, form)},
                }
                for call in message.tool_calls
            ]
            names |= {call.id: call.name for call in message.tool_calls}
        if message.tool_call_id is not None:
            one["tool_call_id"] = message.tool_call_id
            if message.tool_call_id in names:
                one["name"] = names[message.tool_call_id]
        found.append(one)
    return found


def _arguments(call: ToolCall, form: ToolsForm) -> Any:
    """An object where the template wants one and the text is one; else the text as it stands."""
    if form == "text":
        return call.arguments
    try:
        found = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return call.arguments
    return found if isinstance(found, dict) else call.arguments


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


# --- In the child ---


def sourced_message(message: dict[str, Any], index: int, exact: Collection[int]) -> dict[str, Any]:
    """A message whose texts, at any depth, know that they are its; the role is a word of the protocol's. The text of
    a message in `exact` keeps the white space around it, unless there is nothing else: templates ask whether a message
    that calls says anything."""
    origin = of_message(index)
    found = {name: one if name in ("role", "written") else _owned(one, origin) for name, one in message.items()}
    for text, is_mark in found.pop("written", ()):
        found["content"] = found["content"] + (text if is_mark else _owned(text, origin))
    content = found["content"]
    if index in exact and content.strip() not in ("", content):
        edge = Sourced("\ue000", edge_of(index))
        found["content"] = edge + content + edge
    return found


def _owned(value: Any, origin: str) -> Any:
    match value:
        case str():
            return Sourced(value, origin * len(value))
        case dict():
            return {
                name if name in _WORDS else Sourced(name, origin * len(name)): _owned(one, origin)
                for name, one in value.items()
            }
        case list():
            return [_owned(one, origin) for one in value]
        case _:
            return value


def of_client(value: Any) -> Any:
    """A value whose texts, names of objects too, are contents and no message's."""
    match value:
        case str():
            return Sourced(value)
        case dict():
            return {Sourced(name): of_client(one) for name, one in value.items()}
        case list():
            return [of_client(one) for one in value]
        case _:
            return value
