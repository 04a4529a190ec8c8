"""A real model's calls are held by a grammar: made where one is demanded, and plain text is what it was."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from broker.client import Client
from broker.messages import Done, Sampling
from broker.messages.tools import NamedTool
from tests.real import QWEN
from tests.real.serving import served
from tests.real.test_tools import TOOLS

SHORT = Sampling(max_tokens=60)
QUESTIONS = ("Tell me a story about the sea.", "Light the hall.")
LAMP = {"type": "object", "properties": {"lamp": {"enum": ["on", "off"]}}, "required": ["lamp"]}


def check(done: Done) -> None:
    """Each of its calls is one that was offered."""
    for call in done.tool_calls:
        (tool,) = (tool for tool in TOOLS if tool.name == call.name)
        jsonschema.validate(json.loads(call.arguments), tool.parameters)


async def test_calls_are_made_where_they_are_demanded_and_text_stays_as_it_was(tmp_path: Path) -> None:
    free: dict[str, Done] = {}
    async with served(QWEN, tmp_path / "free", "--free-calls") as system, Client(system.address) as client:
        for question in QUESTIONS:
            free[question] = await client.ask("m", question, tools=TOOLS, sampling=SHORT)
    assert not all(done.tool_calls for done in free.values()), "one of them wants no call"
    async with served(QWEN, tmp_path / "held") as system, Client(system.address) as client:
        for question, before in free.items():
            auto = await client.ask("m", question, tools=TOOLS, sampling=SHORT)
            check(auto)
            if not before.tool_calls:
                assert (auto.text, auto.tokens, auto.tool_calls) == (before.text, before.tokens, ())
            required = await client.ask("m", question, tools=TOOLS, tool_choice="required", sampling=SHORT)
            assert (required.text, required.finish_reason) == ("", "tool_calls")
            check(required)
            named = await client.ask(
                "m", question, tools=TOOLS, tool_choice=NamedTool("read_temperature"), sampling=SHORT
            )
            assert {call.name for call in named.tool_calls} == {"read_temperature"}
            check(named)
        one = await client.ask(
            "m", "Light the kitchen and the hall.", tools=TOOLS, tool_choice="required", parallel_tool_calls=False
        )
        assert len(one.tool_calls) == 1
        schema = Sampling(max_tokens=60, json_schema=LAMP)
        text = await client.ask("m", "Is a lamp that glows on or off? As JSON.", tools=TOOLS, sampling=schema)
        assert text.tool_calls or json.loads(text.text)["lamp"] in ("on", "off")
        check(text)
