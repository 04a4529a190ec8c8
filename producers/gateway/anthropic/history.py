"""System prompt and messages of Anthropic's API → the messages of a turn. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from msgspec import Struct

from broker.messages import Message, ToolCall
from producers.gateway.anthropic.blocks import (
    Block,
    Content,
    Document,
    HiddenThoughts,
    Image,
    SearchResult,
    SystemText,
    Text,
    Thoughts,
    ToolResult,
    ToolUse,
)
from producers.gateway.endings import to_be_answered
from producers.gateway.errors import ApiError

_BLOCKS: dict[str, tuple[type, ...]] = {
    "user": (Text, Image, Document, SearchResult, ToolResult),
    "assistant": (Text, Thoughts, HiddenThoughts, ToolUse),
    "system": (Text,),
}
"""That a message of each role may have."""
_BILLING = re.compile(r"\Ax-anthropic-billing-header:(?:\s*\w+=[^;\s]*;)*\s*")
"""What a well-known client writes for Anthropic's own servers at the beginning of its system prompt: another word with
each request, in front of all that would be found in a cache."""


class InputMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """A message as the API has it: results of tools are the user's."""

    role: Literal["user", "assistant", "system"]
    content: Content

    def messages(self, at: str) -> Iterator[Message]:
        """As a turn has them; results of tools come first, as they follow their calls. Raises ApiError."""
        if isinstance(self.content, str):
            yield Message(self.role, self.content)
            return
        told, thoughts, calls, num_results = list[str](), list[str](), list[ToolCall](), 0
        for place, block in self._blocks(f"{at}.content"):
            match block:
                case Thoughts():
                    thoughts.append(block.thinking)
                case HiddenThoughts():
                    pass
                case ToolUse():
                    calls.append(ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False)))
                case ToolResult():
                    num_results += 1
                    yield Message("tool", block.said(place), tool_call_id=block.tool_use_id)
                case _:
                    told.append(block.said(place))
        if told or not num_results:
            yield Message(self.role, "\n".join(told), tuple(calls), None, "\n".join(thoughts))

    def _blocks(self, at: str) -> Iterator[tuple[str, Block]]:
        """With their places. Raises ApiError for one that a message of this role has not."""
        assert not isinstance(self.content, str)
        for index, block in enumerate(self.content):
            place = f"{at}[{index}]"
            if not isinstance(block, _BLOCKS[self.role]):
                kind = block.__struct_config__.tag
                raise ApiError(400, f"{place}: a message of the role {self.role} has no {kind}", param=place)
            yield place, block

    @property
    def hides_thoughts(self) -> bool:
        """Whether it has thoughts that only their writer can read."""
        return not isinstance(self.content, str) and any(isinstance(one, HiddenThoughts) for one in self.content)


def system_text(system: SystemText | None) -> str:
    """The system prompt without what is for Anthropic's own servers; "" where there is none."""
    return "\n".join(text for one in _texts(system) if (text := _BILLING.sub("", one)))


def billing_of(system: SystemText | None) -> str | None:
    """The name of what is for Anthropic's own servers in the system prompt, if there is any."""
    return "x-anthropic-billing-header" if any(map(_BILLING.search, _texts(system))) else None


def _texts(system: SystemText | None) -> list[str]:
    return [system or ""] if system is None or isinstance(system, str) else [one.text for one in system]


def history_of(system: SystemText | None, messages: Sequence[InputMessage]) -> tuple[Message, ...]:
    """The conversation, the last message of which is to be answered, or gone on with where it is the assistant's.
    Raises ApiError."""
    given = [message for index, one in enumerate(messages) for message in one.messages(f"messages[{index}]")]
    found = to_be_answered([*_joined(given)])
    text = system_text(system)
    return (Message("system", text), *found) if text else found


def _joined(messages: Iterable[Message]) -> Iterator[Message]:
    """Messages of one role that follow each other are one, as the API has it."""
    last: Message | None = None
    for one in messages:
        if last is None:
            last = one
        elif last.role != one.role or one.role == "tool":
            yield last
            last = one
        else:
            content = "\n".join(filter(None, (last.content, one.content)))
            reasoning = "\n".join(filter(None, (last.reasoning, one.reasoning)))
            last = Message(one.role, content, last.tool_calls + one.tool_calls, None, reasoning)
    if last is not None:
        yield last
