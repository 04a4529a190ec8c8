"""Tools as Anthropic's API has them: offered, chosen, and in its names what is wrong with them. Pure."""

from __future__ import annotations

import re
from typing import Any, Literal

from msgspec import Struct

from broker.messages import NamedTool, Tool, ToolChoice
from broker.messages.tools import ToolName
from producers.gateway.anthropic.blocks import CacheControl
from producers.gateway.errors import UNSUPPORTED, ApiError


class ClientTool(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool that the client runs. Those of another `type` are Anthropic's own, run there or known to its models. All
    calls follow their schema, so `strict` asks for nothing."""

    name: ToolName
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    eager_input_streaming: bool | None = None
    cache_control: CacheControl | None = None

    def check(self, at: str) -> None:
        """Raises ApiError."""
        if self.type not in (None, "custom"):
            message = f"{at}.type: {self.type[:60]!r} is a tool of Anthropic's own, and not supported here"
            raise ApiError(400, message, param=f"{at}.type", code=UNSUPPORTED)
        if self.input_schema is None:
            field = f"{at}.input_schema"
            raise ApiError(400, f"{field} is required", param=field, code="missing_required_parameter")

    @property
    def tool(self) -> Tool:
        """As a turn has it."""
        return Tool(self.name, self.description or "", self.input_schema)


class Choice(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether tools are called as the model likes, at least once, that one or never."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None

    def check(self) -> None:
        """Raises ApiError."""
        if self.type == "tool" and self.name is None:
            field = "tool_choice.name"
            raise ApiError(400, f"{field} is required", param=field, code="missing_required_parameter")

    @property
    def choice(self) -> ToolChoice:
        """As a turn has it."""
        match self.type:
            case "tool":
                return NamedTool(self.name or "")
            case "any":
                return "required"
            case _:
                return self.type


_NAMES = (
    (re.compile(r"^(tools\[\d+\])\.parameters"), r"\1.input_schema"),
    (re.compile(r"^sampling\.json_schema"), "output_config.format.schema"),
    (re.compile(r"^sampling\.stop"), "stop_sequences"),
    (re.compile(r"^sampling\."), ""),
)


def param_of(field: str) -> str:
    """The request's name of a turn's field."""
    for pattern, name in _NAMES:
        field = pattern.sub(name, field)
    return field
