"""What Home Assistant's integration for Ollama does, by the package that it uses, ollama: how a server is added, how a
model is chosen, its rounds of tools, its way to read a stream. Our own code, after how release 2026.11 behaves."""

from __future__ import annotations

import json
from typing import Any

import ollama

from tests.clients.home import TOOLS, Home

MAX_ITERATIONS = 10
"""Answers to one message, at most."""
NUM_CTX = 8192
"""What it asks for unless it is told otherwise."""


async def add_model(client: ollama.AsyncClient, model: str) -> bool:
    """What is done when a model is chosen: it is pulled unless it is in the list, by the very name. Whether it was."""
    known = {one["model"] for one in (await client.list()).get("models", [])}
    if model in known:
        return True
    await client.pull(model)
    return False


class Assist:
    """One conversation of one home. No message of a tool says whose it is."""

    def __init__(self, client: ollama.AsyncClient, model: str, home: Home, *, think: bool | None = None) -> None:
        self.messages = [ollama.Message(role="system", content=home.prompt)]
        self._client, self._model, self._home, self._think = client, model, home, think

    async def say(self, text: str, schema: dict[str, Any] | None = None) -> str:
        """A message, answered over rounds in which calls are really run."""
        self.messages.append(ollama.Message(role="user", content=text))
        for _ in range(MAX_ITERATIONS):
            answer = await self._answer(schema)
            self.messages.append(answer)
            for call in answer.tool_calls or ():
                result = self._home.run(call.function.name, dict(call.function.arguments))
                told = json.dumps(result, ensure_ascii=False)
                self.messages.append(ollama.Message(role="tool", content=told))
            if not answer.tool_calls:
                return answer.content or ""
        raise AssertionError("it calls and calls")

    async def _answer(self, schema: dict[str, Any] | None) -> ollama.Message:
        stream = await self._client.chat(
            model=self._model,
            messages=[*self.messages],
            tools=TOOLS,
            stream=True,
            keep_alive="-1s",
            options={"num_ctx": NUM_CTX},
            think=self._think,
            format=schema,
        )
        content, thinking = "", ""
        calls: list[ollama.Message.ToolCall] = []
        async for part in stream:
            content += part.message.content or ""
            thinking += part.message.thinking or ""
            calls += part.message.tool_calls or ()
        return ollama.Message(
            role="assistant", content=content or None, thinking=thinking or None, tool_calls=calls or None
        )
