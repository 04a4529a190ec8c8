"""The anthropic package."""

from typing import Any

import anthropic
from features import (
    CHAT,
    MAX_TOKENS,
    MODEL,
    ROOM,
    SCHEMA,
    STREAM,
    THOUGHTS,
    TOOLS,
    URL,
    Features,
    is_city,
    is_stream,
    read_temperature,
    told,
)
from pydantic import BaseModel

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
TOOL: Any = {"name": "read_temperature", "description": "Measures how warm a room is.", "input_schema": ROOM}


class City(BaseModel):
    name: str
    population: int


def asked(text: str) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": text}]}


def chat() -> bool:
    return bool(client.messages.create(**asked(CHAT)).content[-1].text)


def stream() -> bool:
    with client.messages.stream(**asked(STREAM)) as found:
        return is_stream(found.text_stream)


def tools() -> bool:
    messages = asked(TOOLS)["messages"]
    first = client.messages.create(**asked(TOOLS), tools=[TOOL], tool_choice={"type": "any"})
    call = next(block for block in first.content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": read_temperature(**call.input)}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = client.messages.create(**asked(TOOLS) | {"messages": messages}, tools=[TOOL], tool_choice={"type": "none"})
    return bool(second.content[-1].text)


def schema() -> bool:
    found = client.messages.parse(**asked(SCHEMA), output_format=City).parsed_output
    return found is not None and is_city(found.model_dump())


def thoughts() -> str | bool:
    content = client.messages.create(**asked(THOUGHTS), thinking={"type": "enabled", "budget_tokens": 60}).content
    return told(content[-1].text, "".join(block.thinking for block in content if block.type == "thinking"))


def count() -> bool:
    asked_for = {name: one for name, one in asked(CHAT).items() if name != "max_tokens"}
    return client.messages.count_tokens(**asked_for).input_tokens > 0


features = Features("anthropic")
for name, work in (
    ("chat", chat),
    ("stream", stream),
    ("tools", tools),
    ("schema", schema),
    ("thoughts", thoughts),
    ("count", count),
):
    features.attempt(name, work)
features.tell()
