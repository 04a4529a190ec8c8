"""Runs a client's program against a gateway, and holds what it tells of itself to the shape."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.clients.environments import PROGRAMS, PYTHON
from tests.clients.programs import features, house

FILES = {
    "openai": "openai_chat.py",
    "pydantic-ai": "pydantic_ai_agent.py",
    "langchain": "langchain_agent.py",
    "openai-agents": "openai_agents.py",
    "ai-sdk": "ai_sdk.mjs",
}
FEATURES = {
    "openai": ("openai_features.py",),
    "openai-responses": ("openai_responses_features.py",),
    "anthropic": ("anthropic_features.py",),
    "ollama": ("ollama_features.py",),
    "litellm": ("litellm_features.py", "openai"),
    "litellm-anthropic": ("litellm_features.py", "anthropic"),
    "langchain": ("langchain_features.py",),
    "pydantic-ai": ("pydantic_ai_features.py",),
    "instructor": ("instructor_features.py",),
    "llm": ("llm_features.py",),
    "openai-agents": ("openai_agents_features.py", "responses"),
    "openai-agents-chats": ("openai_agents_features.py", "chats"),
    "ai-sdk": ("ai_sdk_features.mjs", "openai-compatible"),
    "ai-sdk-openai": ("ai_sdk_features.mjs", "openai"),
}
"""Programs that try what a client has, one after the other, with their arguments."""
SECONDS = 300.0
"""For a client; what does not end by then hangs."""


async def account_of(name: str, url: str, model: str, *, python: Path = PYTHON / "bin" / "python") -> dict[str, Any]:
    """What a client's program tells at its end. `url` is the API's. Raises AssertionError with its last words."""
    program = PROGRAMS / FILES[name]
    told: dict[str, Any] = {
        "rooms": house.ROOMS,
        "system": house.SYSTEM,
        "requests": [one for one, _, _ in house.REQUESTS],
    }
    told |= {"max_tokens": house.MAX_TOKENS, "max_rounds": house.MAX_ROUNDS}
    own = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none", "TURNPIKE_MODEL": model}
    own |= {"TURNPIKE_HOUSE": json.dumps(told)}
    return await _last_line(name, [_interpreter(program, python), program], own)


async def features_of(name: str, url: str, model: str, embedder: str = "", embedder_url: str = "") -> dict[str, Any]:
    """What a client can, as its program tells at its end. `url` is the gateway's; `embedder` a model of embeddings,
    where there is one, maybe at another one. Raises AssertionError with its last words."""
    file, *arguments = FEATURES[name]
    program = PROGRAMS / file
    own = {"TURNPIKE_URL": url, "TURNPIKE_MODEL": model, "TURNPIKE_ASKED": json.dumps(features.ASKED)}
    own |= {"TURNPIKE_EMBEDDER": embedder, "TURNPIKE_EMBEDDER_URL": embedder_url or url}
    # It would ask elsewhere what models cost.
    own |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return await _last_line(name, [_interpreter(program, PYTHON / "bin" / "python"), program, *arguments], own)


def _interpreter(program: Path, python: Path) -> str | Path:
    return "node" if program.suffix == ".mjs" else python


async def _last_line(name: str, command: Sequence[str | Path], own: Mapping[str, str]) -> dict[str, Any]:
    # Nothing that would have another answer, or hear of this one.
    others = ("OPENAI_", "ANTHROPIC_", "OLLAMA_", "LITELLM_", "LLM_", "LANG", "PYTHON")
    kept = {key: one for key, one in os.environ.items() if not key.startswith(others)}
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**kept, **own},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{name} ended with {process.returncode}: {errors.decode()[-2000:]}"
    found: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    return found


def num_right(account: dict[str, Any]) -> int:
    """How many requests were answered by the right call and no other. Raises AssertionError where not all have
    been answered, with calls and their results in between; a model may say nothing, or call until it is stopped."""
    requests = account["requests"]
    assert [one["request"] for one in requests] == [one for one, _, _ in house.REQUESTS]
    assert all(1 <= one["answers"] <= house.MAX_ROUNDS for one in requests), requests
    assert any(one["calls"] for one in requests), f"nothing was called: {requests}"
    # What a call gave went back, unless a request has had all the answers that it may have.
    assert all(one["answers"] >= 2 for one in requests if one["calls"]), f"a result without an answer: {requests}"
    right = {request: [[name, arguments]] for request, name, arguments in house.REQUESTS}
    return sum(one["calls"] == right[one["request"]] for one in requests)
