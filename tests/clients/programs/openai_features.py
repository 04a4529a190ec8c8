"""The openai package: its chats."""

import json
from typing import Any

import features as asked
import openai

client = openai.OpenAI(base_url=f"{asked.URL}/v1", api_key="none", max_retries=0)


def fields(text: str) -> dict[str, Any]:
    chosen = {"model": asked.MODEL, "temperature": asked.TEMPERATURE, "max_completion_tokens": asked.MAX_TOKENS}
    return chosen | {"messages": asked.question(text)}


def ask(text: str, **more: Any) -> Any:
    return client.chat.completions.create(**fields(text) | more)


def chat() -> bool:
    return bool(ask(asked.CHAT).choices[0].message.content)


def stream() -> bool:
    return asked.is_stream(one.choices[0].delta.content or "" for one in ask(asked.STREAM, stream=True))


def tools() -> bool:
    said = ask(asked.TOOLS, tools=[asked.TOOL], tool_choice="required").choices[0].message
    messages = [*asked.question(asked.TOOLS), said]
    for call in said.tool_calls:
        result = asked.read_temperature(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    second = ask(asked.TOOLS, messages=messages, tools=[asked.TOOL], tool_choice="none")
    return bool(second.choices[0].message.content)


def schema() -> bool:
    found = client.chat.completions.parse(**fields(asked.SCHEMA), response_format=asked.City)
    return asked.is_city(found.choices[0].message.parsed)


def thoughts() -> str | bool:
    message = ask(asked.THOUGHTS, reasoning_effort="low").choices[0].message
    return asked.told(message.content, getattr(message, "reasoning_content", None))


def embeddings() -> bool:
    api = client.with_options(base_url=f"{asked.EMBEDDER_URL}/v1").embeddings
    return asked.are_vectors([one.embedding for one in api.create(model=asked.EMBEDDER, input=asked.EMBEDDED).data])


asked.tell(
    "openai",
    "chats",
    chat=chat,
    stream=stream,
    tools=tools,
    schema=schema,
    thoughts=thoughts,
    embeddings=embeddings,
)
