"""The openai package: its chats."""

from typing import Any

import features as asked
import openai
from chats import Chats

client = openai.OpenAI(base_url=f"{asked.URL}/v1", api_key="none", max_retries=0)


def fields(text: str) -> dict[str, Any]:
    chosen = {"model": asked.MODEL, "temperature": asked.TEMPERATURE, "max_completion_tokens": asked.MAX_TOKENS}
    return chosen | {"messages": asked.question(text)}


def ask(text: str, **more: Any) -> Any:
    return client.chat.completions.create(**fields(text) | more)


of = Chats(ask)


def schema() -> bool:
    found = client.chat.completions.parse(**fields(asked.SCHEMA), response_format=asked.City)
    return asked.is_city(found.choices[0].message.parsed)


def thoughts() -> str | bool:
    return of.thoughts(reasoning_effort="low")


def embeddings() -> bool:
    api = client.with_options(base_url=f"{asked.EMBEDDER_URL}/v1").embeddings
    return asked.are_vectors([one.embedding for one in api.create(model=asked.EMBEDDER, input=asked.EMBEDDED).data])


asked.tell(
    "openai",
    "chats",
    chat=of.chat,
    stream=of.stream,
    tools=of.tools,
    schema=schema,
    thoughts=thoughts,
    embeddings=embeddings,
)
