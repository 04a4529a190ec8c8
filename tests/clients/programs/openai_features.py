"""The openai package: its chats and its Responses."""

import json
from typing import Any

import openai
from features import (
    CHAT,
    EMBEDDED,
    EMBEDDER,
    EMBEDDER_URL,
    MAX_TOKENS,
    MODEL,
    ROOM,
    SCHEMA,
    STREAM,
    THOUGHTS,
    TOOLS,
    URL,
    Features,
    are_vectors,
    is_city,
    is_stream,
    read_temperature,
    told,
)
from pydantic import BaseModel

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
FUNCTION: Any = {"name": "read_temperature", "description": "Measures how warm a room is.", "parameters": ROOM}


class City(BaseModel):
    name: str
    population: int


def asked(text: str) -> dict[str, Any]:
    return {"model": MODEL, "max_completion_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": text}]}


def chat() -> bool:
    return bool(client.chat.completions.create(**asked(CHAT)).choices[0].message.content)


def stream() -> bool:
    chunks = client.chat.completions.create(**asked(STREAM), stream=True)
    return is_stream(chunk.choices[0].delta.content or "" for chunk in chunks)


def tools() -> bool:
    tool: Any = {"tools": [{"type": "function", "function": FUNCTION}]}
    messages = asked(TOOLS)["messages"]
    said = client.chat.completions.create(**asked(TOOLS), **tool, tool_choice="required").choices[0].message
    (call, *_) = said.tool_calls
    result = read_temperature(**json.loads(call.function.arguments))
    messages += [said, *({"role": "tool", "tool_call_id": one.id, "content": result} for one in said.tool_calls)]
    second = client.chat.completions.create(**asked(TOOLS) | {"messages": messages}, **tool, tool_choice="none")
    return bool(second.choices[0].message.content)


def schema() -> bool:
    found = client.chat.completions.parse(**asked(SCHEMA), response_format=City).choices[0].message.parsed
    return found is not None and is_city(found.model_dump())


def thoughts() -> str | bool:
    message = client.chat.completions.create(**asked(THOUGHTS), reasoning_effort="low").choices[0].message
    return told(message.content, getattr(message, "reasoning_content", None))


def embeddings() -> bool:
    return are_vectors(
        [
            one.embedding
            for one in client.with_options(base_url=f"{EMBEDDER_URL}/v1")
            .embeddings.create(model=EMBEDDER, input=EMBEDDED)
            .data
        ]
    )


features = Features("openai", "chats")
for name, work in (("chat", chat), ("stream", stream), ("tools", tools), ("schema", schema), ("thoughts", thoughts)):
    features.attempt(name, work)
if EMBEDDER:
    features.attempt("embeddings", embeddings)
features.tell()
