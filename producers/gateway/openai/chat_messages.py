"""A chat's messages as the OpenAI API has them. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from broker.messages import Message, Role
from broker.messages.tools import CallId
from producers.gateway.openai.tools import Calls, calls_of


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a message's content; front ends that keep chats in the Responses API's form send its names for text."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class ChatMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """A message as the API has it; fields that an answer came with may come back with it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] | UnsetType = UNSET
    """An assistant may have said nothing."""
    refusal: Literal[""] | None = None
    annotations: tuple[()] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Calls | None = None
    tool_call_id: CallId | None = None
    reasoning_content: str | None = None
    name: Annotated[str, Meta(max_length=256)] | None = None
    """Of the participant: no template here can say it, and the turn does not have it. A tool's is known by the call."""

    @property
    def message(self) -> Message:
        """As a turn has it."""
        role: Role = "system" if self.role == "developer" else self.role
        content = () if isinstance(self.content, UnsetType) else self.content
        # Parts are texts of their own: a line end between them, as other servers do.
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        return Message(role, text, calls_of(self.tool_calls or ()), self.tool_call_id, self.reasoning_content or "")

    @property
    def missing(self) -> str | None:
        """A field that a message of this role must have, and this one has not."""
        if isinstance(self.content, UnsetType) and self.role != "assistant":
            return "content"
        return "tool_call_id" if self.role == "tool" and self.tool_call_id is None else None
