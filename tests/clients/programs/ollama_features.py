"""The ollama package."""

import json
from typing import Any

import ollama
from features import (
    CHAT,
    CITY,
    EMBEDDED,
    EMBEDDER,
    EMBEDDER_URL,
    MAX_TOKENS,
    MODEL,
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

client = ollama.Client(host=URL)


def ask(text: str, **more: Any) -> Any:
    messages = more.pop("messages", [{"role": "user", "content": text}])
    return client.chat(model=MODEL, messages=messages, options={"num_predict": MAX_TOKENS}, **more)


def chat() -> bool:
    return bool(ask(CHAT).message.content)


def stream() -> bool:
    return is_stream(part.message.content or "" for part in ask(STREAM, stream=True))


def tools() -> bool | str:
    said = ask(TOOLS, tools=[read_temperature]).message
    if not said.tool_calls:  # the API has no word for a call that must be made
        return "taken" if said.content else False
    messages = [{"role": "user", "content": TOOLS}, said]
    for call in said.tool_calls:
        result = read_temperature(**call.function.arguments)
        messages.append({"role": "tool", "content": result, "tool_name": call.function.name})
    return bool(ask(TOOLS, messages=messages).message.content)


def schema() -> bool:
    return is_city(json.loads(ask(SCHEMA, format=CITY).message.content))


def thoughts() -> str | bool:
    message = ask(THOUGHTS, think=True).message
    return told(message.content, message.thinking)


def embeddings() -> bool:
    return are_vectors(ollama.Client(host=EMBEDDER_URL).embed(model=EMBEDDER, input=EMBEDDED).embeddings)


features = Features("ollama")
for name, work in (("chat", chat), ("stream", stream), ("tools", tools), ("schema", schema), ("thoughts", thoughts)):
    features.attempt(name, work)
if EMBEDDER:
    features.attempt("embeddings", embeddings)
features.tell()
