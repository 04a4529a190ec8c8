"""litellm, by the API whose name is its argument."""

import json
import sys
from typing import Any

import litellm
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

litellm.telemetry = False
API = sys.argv[1]
BASE = f"{URL}/v1" if API == "openai" else URL
TOOL: Any = {
    "type": "function",
    "function": {"name": "read_temperature", "description": "Measures how warm a room is.", "parameters": ROOM},
}


class City(BaseModel):
    name: str
    population: int


def ask(text: str, **more: Any) -> Any:
    messages = more.pop("messages", [{"role": "user", "content": text}])
    common: Any = {"api_base": BASE, "api_key": "none", "max_tokens": MAX_TOKENS, "num_retries": 0}
    return litellm.completion(model=f"{API}/{MODEL}", messages=messages, **common, **more)


def chat() -> bool:
    return bool(ask(CHAT).choices[0].message.content)


def stream() -> bool:
    return is_stream(chunk.choices[0].delta.content or "" for chunk in ask(STREAM, stream=True))


def tools() -> bool:
    said = ask(TOOLS, tools=[TOOL], tool_choice="required").choices[0].message
    (call, *_) = said.tool_calls
    result = read_temperature(**json.loads(call.function.arguments))
    messages = [{"role": "user", "content": TOOLS}, said]
    messages += [{"role": "tool", "tool_call_id": one.id, "content": result} for one in said.tool_calls]
    second = ask(TOOLS, messages=messages, tools=[TOOL], tool_choice="none")
    return bool(second.choices[0].message.content)


def schema() -> bool:
    return is_city(json.loads(ask(SCHEMA, response_format=City).choices[0].message.content))


def thoughts() -> str | bool:
    more: Any = {"thinking": {"type": "enabled", "budget_tokens": 60}}
    if API == "openai":
        more = {"reasoning_effort": "low"}
    # It knows by a model's name whether it thinks, and ours is none that it knows.
    message = ask(THOUGHTS, **more, allowed_openai_params=[*more]).choices[0].message
    return told(message.content, getattr(message, "reasoning_content", None))


def embeddings() -> bool:
    found = litellm.embedding(model=f"openai/{EMBEDDER}", input=EMBEDDED, api_base=f"{EMBEDDER_URL}/v1", api_key="none")
    return are_vectors([one["embedding"] for one in found.data])


features = Features("litellm", f"`{API}/`")
for name, work in (("chat", chat), ("stream", stream), ("tools", tools), ("schema", schema), ("thoughts", thoughts)):
    features.attempt(name, work)
if EMBEDDER and API == "openai":
    features.attempt("embeddings", embeddings)
features.tell()
