"""The ollama package."""

import json
from typing import Any

import features as asked
import ollama

client = ollama.Client(host=asked.URL)
OPTIONS = {"num_predict": asked.MAX_TOKENS, "temperature": asked.TEMPERATURE}


def ask(text: str, **more: Any) -> Any:
    messages = more.pop("messages", asked.question(text))
    return client.chat(model=asked.MODEL, messages=messages, options=OPTIONS, **more)


def chat() -> bool:
    return bool(ask(asked.CHAT).message.content)


def stream() -> bool:
    return asked.is_stream(part.message.content or "" for part in ask(asked.STREAM, stream=True))


def tools() -> bool | str:
    messages = asked.question(asked.TOOLS)
    for number in range(asked.MAX_ROUNDS):  # the API has no word for a call that must be made, or must not
        said = ask(asked.TOOLS, messages=messages, tools=[asked.read_temperature]).message
        if not said.tool_calls:
            return ("yes" if number else "taken") if said.content else False
        messages.append(said)
        for call in said.tool_calls:
            result = asked.read_temperature(**call.function.arguments)
            messages.append({"role": "tool", "content": result, "tool_name": call.function.name})
    return "calls on"


def schema() -> bool:
    return asked.is_city(json.loads(ask(asked.SCHEMA, format=asked.City.model_json_schema()).message.content))


def thoughts() -> str | bool:
    message = ask(asked.THOUGHTS, think=True).message
    return asked.told(message.content, message.thinking)


def embeddings() -> bool:
    embedder = ollama.Client(host=asked.EMBEDDER_URL)
    return asked.are_vectors(embedder.embed(model=asked.EMBEDDER, input=asked.EMBEDDED).embeddings)


asked.tell(
    "ollama",
    chat=chat,
    stream=stream,
    tools=tools,
    schema=schema,
    thoughts=thoughts,
    embeddings=embeddings,
)
