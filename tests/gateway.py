"""What tests of the gateway share: the openai package before it, and its stream's events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx2
import openai
from nats.aio.client import Client as NatsConnection

from broker import jetstream

USER: Any = [{"role": "user", "content": "hello there"}]

StartGateway = Callable[..., AbstractAsyncContextManager[str]]


def talk(url: str, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)


async def num_queued(nc: NatsConnection) -> int:
    info = await jetstream.api(nc, "STREAM.INFO.TURNS-m")
    assert info is not None
    found: int = info["state"]["messages"]
    return found


async def events(answer: httpx2.Response) -> AsyncIterator[dict[str, object]]:
    """Data, and our comments under the name `comment`."""
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])
        elif line.startswith(": turnpike "):
            yield {"comment": json.loads(line[11:])}


def text_of(event: dict[str, object]) -> str:
    choices = event.get("choices")
    assert choices is None or isinstance(choices, list)
    return choices[0]["delta"].get("content") or "" if choices else ""
