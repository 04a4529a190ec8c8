"""What a turn gives its template besides the messages: tools, variables, and whether to think."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from broker.conversations import plain_arguments
from broker.messages import Message, Tool, Turn
from broker.messages.template_kwargs import canonical
from broker.messages.turns import Thinking
from workers.prompts.switches import OPENS_ANSWER, SWITCH

_SWITCHES = (SWITCH, "thinking")
"""By which names most templates ask whether the model is to think (Qwen3, GLM, SmolLM3; DeepSeek V3.1, Granite)."""


def offered(turn: Turn) -> tuple[Tool, ...]:
    """The tools that the model hears of: none where none may be called."""
    return () if turn.tool_choice == "none" else turn.tools


def must_call(turn: Turn) -> bool:
    """Whether the answer has to be a call."""
    return bool(offered(turn)) and turn.tool_choice != "auto"


def variables(turn: Turn) -> dict[str, Any] | None:
    """The client's own, the switches for thinking where it says so otherwise, and that no answer is to begin."""
    told: dict[str, Any] = {OPENS_ANSWER: False} if turn.bare else {}
    if turn.sampling.thinking is not None:
        budget = budget_of(turn.sampling.thinking)
        told |= dict.fromkeys(_SWITCHES, budget != 0) | ({"thinking_budget": budget} if budget else {})
    return told | (turn.chat_template_kwargs or {}) if told else turn.chat_template_kwargs


def budget_of(thinking: Thinking | None) -> int | None:
    """How many tokens the thoughts of an answer may have; None for as many as the model likes."""
    match thinking:
        case "off":
            return 0
        case int():
            return thinking
        case _:
            return None


def given_besides(turn: Turn) -> str:
    """One text for turns whose prompts begin alike where their messages do; empty for nothing."""
    text = canonical(variables(turn))
    if tools := offered(turn):
        text += hashlib.sha256(msgspec.json.encode(tools)).hexdigest()
    return text


def without_thoughts(message: Message) -> Message:
    """The message as it is remembered: few clients send thoughts back."""
    return msgspec.structs.replace(message, reasoning="") if message.reasoning else message


def plain(message: Message) -> Message:
    """The same for messages that say the same, with thoughts or without, however their calls' arguments are spaced, and
    whatever ids they have: a template that writes them makes another text of them, which is seen there."""
    calls = tuple(
        msgspec.structs.replace(call, id="-", arguments=plain_arguments(call.arguments)) for call in message.tool_calls
    )
    told = message.tool_call_id and "-"
    return msgspec.structs.replace(message, tool_calls=calls, tool_call_id=told, reasoning="")
