"""litellm, by the API whose name is its argument."""

import json
import sys
from typing import Any

import features as asked
import litellm
from chats import Chats

litellm.telemetry = False
API = sys.argv[1]
IS_OPENAI = API == "openai"
COMMON: Any = {
    "model": f"{API}/{asked.MODEL}",
    "api_base": f"{asked.URL}/v1" if IS_OPENAI else asked.URL,
    "api_key": "none",
    "max_tokens": asked.MAX_TOKENS,
    "temperature": asked.TEMPERATURE,
    "num_retries": 0,
}


def ask(text: str, **more: Any) -> Any:
    return litellm.completion(**COMMON | {"messages": asked.question(text)} | more)


of = Chats(ask)


def schema() -> bool:
    return asked.is_city(json.loads(ask(asked.SCHEMA, response_format=asked.City).choices[0].message.content))


def thoughts() -> str | bool:
    more: Any = {"reasoning_effort": "low"} if IS_OPENAI else {"thinking": {"type": "enabled", "budget_tokens": 60}}
    # It knows by a model's name whether it thinks, and ours is none that it knows.
    return of.thoughts(**more, allowed_openai_params=[*more])


def embeddings() -> bool:
    own = {"api_base": f"{asked.EMBEDDER_URL}/v1", "api_key": "none"}
    found = litellm.embedding(model=f"openai/{asked.EMBEDDER}", input=asked.EMBEDDED, **own)
    return asked.are_vectors([one["embedding"] for one in found.data])


asked.tell(
    "litellm",
    f"`{API}/`",
    chat=of.chat,
    stream=of.stream,
    tools=of.tools,
    schema=schema,
    thoughts=thoughts,
    **({"embeddings": embeddings} if IS_OPENAI else {}),
)
