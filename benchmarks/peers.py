"""Ours and llama-server behind one face: ask, and see when each token came and how many prompt tokens were computed."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2

from benchmarks.harness import System, model, tool, worker_libraries
from broker.messages import Message, Sampling
from broker.priorities import Priority
from broker.process import spawn, terminate
from tests.support import free_port

HEALTHY_SECONDS = 120.0
"""Within which a server is ready."""


@dataclass
class Asked:
    """An answer: when each of its tokens came, how many it has, how many of its prompt's were computed for it."""

    sent_at: float
    times: list[float] = field(default_factory=list)
    text: str = ""
    num_prompt: int = 0
    num_computed: int = 0
    num_generated: int = 0

    @property
    def ttft(self) -> float:
        return self.times[0] - self.sent_at

    @property
    def seconds(self) -> float:
        """From the first token to the last one."""
        return self.times[-1] - self.times[0]

    @property
    def worst_gap(self) -> float:
        return max((later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)), default=0.0)


class Peer(Protocol):
    """Whoever answers."""

    async def ask(
        self,
        conversation: str,
        messages: list[Message],
        num_tokens: int,
        priority: Priority = "interactive",
        *,
        ignore_eos: bool = True,
    ) -> Asked: ...


class Turnpike:
    """A broker and a worker, by our client."""

    def __init__(self, here: System) -> None:
        self._client = here.client

    async def ask(
        self,
        conversation: str,
        messages: list[Message],
        num_tokens: int,
        priority: Priority = "interactive",
        *,
        ignore_eos: bool = True,
    ) -> Asked:
        found = Asked(time.perf_counter())
        sampling = Sampling(max_tokens=num_tokens, ignore_eos=ignore_eos)
        answer = self._client.ask("m", messages, conversation=conversation, sampling=sampling, priority=priority)
        async for chunk in answer:
            found.times += [time.perf_counter()] * len(chunk.tokens)
        usage = answer.done.usage
        found.text, found.num_generated = answer.done.text, usage.completion_tokens
        found.num_prompt, found.num_computed = usage.prompt_tokens, usage.prompt_tokens - usage.cached_tokens
        return found


class OverHttp:
    """A server by the OpenAI dialect, the same requests and the same reading for all of them."""

    def __init__(self, client: httpx2.AsyncClient, model: str = "m") -> None:
        self._client = client
        self._model = model
        self.url = str(client.base_url)

    async def ask(
        self,
        conversation: str,
        messages: list[Message],
        num_tokens: int,
        priority: Priority = "interactive",
        *,
        ignore_eos: bool = True,
    ) -> Asked:
        body = {
            "model": self._model,
            "messages": [{"role": one.role, "content": one.content} for one in messages],
            "max_tokens": num_tokens,
            "temperature": 0,
            "ignore_eos": ignore_eos,
            "stream": True,
            "stream_options": {"include_usage": True},
            "prompt_cache_key": conversation,
        }
        headers = {"Turnpike-Priority": priority}
        found = Asked(time.perf_counter())
        async with self._client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
            assert answer.status_code == 200, (await answer.aread()).decode()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                assert "error" not in event, line
                delta = event["choices"][0]["delta"] if event["choices"] else {}
                # A first event has the role, and no token's text.
                if delta.get("content") is not None and "role" not in delta:
                    found.times.append(time.perf_counter())
                    found.text += delta["content"]
                if usage := event.get("usage"):
                    found.num_prompt, found.num_generated = usage["prompt_tokens"], usage["completion_tokens"]
                    found.num_computed = found.num_prompt - usage["prompt_tokens_details"]["cached_tokens"]
        return found


class LlamaServer(OverHttp):
    """llama.cpp's server, which renders the same chat template. It knows of no priorities and no conversations."""

    async def embed(self, texts: list[str]) -> list[bytes]:
        """The vector of each text, packed."""
        body = {"input": texts, "encoding_format": "base64"}
        answer = (await self._client.post("/v1/embeddings", json=body)).raise_for_status()
        return [base64.b64decode(one["embedding"]) for one in answer.json()["data"]]

    async def complete(self, prompt: list[int], num_tokens: int, **more: Any) -> dict[str, Any]:
        """Goes on from tokens, greedily: its own answer, with tokens and timings."""
        body = {
            "prompt": prompt,
            "n_predict": num_tokens,
            "temperature": 0,
            "cache_prompt": True,
            "return_tokens": True,
        }
        answer = await self._client.post("/completion", json=body | more)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    async def chat(self, **body: Any) -> dict[str, Any]:
        """The message that it answers a chat with, by its own reading of tool calls."""
        answer = await self._client.post("/v1/chat/completions", json=body)
        found: dict[str, Any] = answer.raise_for_status().json()["choices"][0]["message"]
        return found


def http_client(url: str) -> httpx2.AsyncClient:
    """For many at once, each on a connection of its own."""
    limits = httpx2.Limits(max_connections=256, max_keepalive_connections=0)
    return httpx2.AsyncClient(base_url=url, timeout=1800, limits=limits)


async def until_healthy(http: httpx2.AsyncClient, server: asyncio.subprocess.Process, why: Callable[[], str]) -> None:
    """Until it says that it is ready. `why` tells of a server that has ended instead."""
    async with asyncio.timeout(HEALTHY_SECONDS):
        while True:
            assert server.returncode is None, why()
            with suppress(httpx2.HTTPError):
                if (await http.get("/health")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def llama_server(
    *flags: str | int, model_file: Path | None = None, log: Path | None = None, patched: bool = False
) -> AsyncIterator[LlamaServer]:
    """Runs it on the loopback until it is left. `log` is a file for all that it says; the `patched` one has our
    attention."""
    port = free_port()
    quietly = ("--log-disable",) if log is None else ("-lv", 5, "--log-prefix", "--log-timestamps", "--log-file", log)
    command = [tool("llama-server"), "-m", model_file or model(), "-fa", "on", "--port", port]
    quiet = asyncio.subprocess.DEVNULL
    command += [*quietly, *flags]
    env = worker_libraries() if patched else None
    server = await spawn([*map(str, command)], env=env, stdout=quiet, stderr=quiet)
    try:
        async with http_client(f"http://127.0.0.1:{port}") as client:
            await until_healthy(client, server, lambda: f"llama-server did not start: {command}")
            yield LlamaServer(client)
    finally:
        await terminate(server)
