"""What a turn gives its template besides the messages: tools, variables, and whether to think."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from broker.messages import Message, Tool, Turn
from broker.messages.template_kwargs import canonical

_SWITCHES = ("enable_thinking", "thinking")
"""By which names templates ask whether the model is to think (Qwen3, GLM, SmolLM3; DeepSeek V3.1, Granite)."""


def offered(turn: Turn) -> tuple[Tool, ...]:
    """The tools that the model hears of: none where none may be called."""
    return () if turn.tool_choice == "none" else turn.tools


def variables(turn: Turn) -> dict[str, Any] | None:
    """The client's own, and the switches for thinking where it says so otherwise."""
    if turn.sampling.thinking is None:
        return turn.chat_template_kwargs
    is_on = turn.sampling.thinking != "off" and turn.sampling.thinking != 0
    return dict.fromkeys(_SWITCHES, is_on) | (turn.chat_template_kwargs or {})


def given_besides(turn: Turn) -> str:
    """One text for turns whose prompts begin alike where their messages do; empty for nothing."""
    text = canonical(variables(turn))
    if tools := offered(turn):
        text += hashlib.sha256(msgspec.json.encode(tools)).hexdigest()
    return text


def without_thoughts(message: Message) -> Message:
    """The message as it is remembered: few clients send thoughts back."""
    return msgspec.structs.replace(message, reasoning="") if message.reasoning else message
