"""What a request of the Responses API says of the answer: its text, its thoughts, its functions. Pure."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from broker.messages import Tool
from broker.messages.tools import ToolName
from producers.gateway.openai.chat import Effort


class TextFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """What the text must look like."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How the text is to be."""

    format: TextFormat | None = None
    verbosity: str | None = None

    @property
    def ignored(self) -> list[str]:
        """What of it is not done."""
        is_described = self.format is not None and bool(self.format.description)
        asks = {"verbosity": self.verbosity not in (None, "medium"), "format.description": is_described}
        return [f"text.{name}" for name, is_asked in asks.items() if is_asked]


class ReasoningConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How to think. Thoughts are told as they are, so that a summary of them is nothing to ask for."""

    effort: Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None

    @property
    def ignored(self) -> list[str]:
        """The summaries: `auto` leaves it to us whether there is one."""
        asks = {"summary": self.summary, "generate_summary": self.generate_summary}
        return [f"reasoning.{name}" for name, wanted in asks.items() if wanted not in (None, "auto")]


class FunctionTool(Struct, frozen=True, forbid_unknown_fields=True):
    """A function that is offered. All calls follow their schema, so `strict` asks for nothing."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def tool(self) -> Tool:
        """As a turn has it."""
        return Tool(self.name, self.description or "", self.parameters)
