"""A real model calls a tool, and goes on from what came of it."""

from __future__ import annotations

import json

import pytest

from broker.messages import Message, Sampling, Tool
from producers.local_system import LocalSystem
from tests.real import QWEN

ROOM = {"type": "string", "enum": ["kitchen", "hall", "garden"]}
TOOLS = (
    Tool(
        "switch_lamp",
        "Switches a lamp on or off",
        {"type": "object", "properties": {"room": ROOM, "on": {"type": "boolean"}}, "required": ["room", "on"]},
    ),
    Tool(
        "read_temperature",
        "Reads a room's temperature in degrees",
        {"type": "object", "properties": {"room": ROOM}, "required": ["room"]},
    ),
)
SHORT = Sampling(max_tokens=60)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("system", [QWEN], indirect=True)
async def test_a_lamp_is_switched_and_the_next_conversation_has_the_tools_computed(system: LocalSystem) -> None:
    client = system.client
    question = Message("user", "Switch on the lamp in the kitchen.")
    first = await client.ask("m", [question], tools=TOOLS, sampling=SHORT)
    (call,) = first.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("switch_lamp", {"room": "kitchen", "on": True})
    assert (first.text, first.finish_reason) == ("", "tool_calls")
    said = Message("assistant", first.text, first.tool_calls)
    result = Message("tool", '{"lamp": "on"}', tool_call_id=call.id)
    second = await client.ask("m", [question, said, result], tools=TOOLS, sampling=SHORT)
    assert second.usage.cached_tokens >= first.usage.prompt_tokens - 1
    other = await client.ask("m", "How warm is it in the hall?", tools=TOOLS, sampling=SHORT)
    (reading,) = other.tool_calls
    assert (reading.name, json.loads(reading.arguments)) == ("read_temperature", {"room": "hall"})
    assert other.usage.prompt_tokens - other.usage.cached_tokens <= 20, "its own words alone"
