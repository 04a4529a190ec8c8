"""What a template is given, in the child: texts that know whose they are."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from workers.prompts.provenance import Sourced, edge_of, of_message

_WORDS = frozenset(
    ("role", "content", "name", "tool_calls", "tool_call_id", "id", "type", "function", "arguments",
     "reasoning_content", "thinking")
)  # fmt: skip
"""The protocol's own names in a message: all others are somebody's text."""


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
