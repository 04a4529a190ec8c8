"""What Home Assistant's integration for llama.cpp-like servers does, by the package that it uses, openai: its check of
a server, its rounds of tools, its way to read a stream, its tasks with a schema. Our own code, after how release
2026.11 behaves: it could not be run itself, as it needs Python 3.14."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import openai

from tests.clients.home import TOOLS, Home

MAX_ITERATIONS = 10
"""Answers to one message, at most."""
RECOMMENDED: dict[str, Any] = {"max_tokens": 3000, "top_p": 1.0, "temperature": 0.7}
"""What it asks for unless it is told otherwise."""
KEY = "sk-0000000000000000000"
"""What it sends where none was given."""
_TEST_MESSAGES: Any = [
    {"role": "system", "content": "Be helpful."},
    {"role": "user", "content": "Which city is the capital of Norway?"},
]
_TEST_TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "test_function",
            "description": "A test.",
            "parameters": {"type": "object", "properties": {}},
        },
    }
]


@dataclass(frozen=True)
class Call:
    """Of an answer, its arguments read."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Said:
    """What became of a message."""

    text: str
    """The last answer's."""
    num_answers: int
    calls: tuple[Call, ...]
    """Of all answers."""
    has_ended: bool
    """Whether the last answer called nothing: else the answers' bound was reached."""


class Assist:
    """One conversation of one home."""

    def __init__(
        self, api: openai.AsyncOpenAI, model: str, home: Home, conversation: str, *, stream: bool, **options: Any
    ) -> None:
        self.messages: list[Any] = [{"role": "system", "content": home.prompt}]
        self._api, self._model, self._home = api, model, home
        self._conversation = conversation
        self._is_streamed = stream
        self._options = RECOMMENDED | options

    async def say(self, text: str, **more: Any) -> Said:
        """A message, answered over rounds in which calls are really run. Raises what openai raises, and ValueError for
        arguments that are no JSON, as those of a call that was cut off: then the message is forgotten."""
        before = len(self.messages)
        try:
            return await self._say(text, **more)
        except ValueError:
            del self.messages[before:]
            raise

    async def _say(self, text: str, **more: Any) -> Said:
        self.messages.append({"role": "user", "content": text})
        calls: list[Call] = []
        num_answers = 0
        found: list[Call] = []
        while num_answers == 0 or (found and num_answers < MAX_ITERATIONS):
            num_answers += 1
            content, found = await self._answer(**more)
            self.messages.append(_assistant(content, found))
            for call in found:
                result = json.dumps(self._home.run(call.name, call.arguments), ensure_ascii=False)
                self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            calls += found
        return Said(content or "", num_answers, tuple(calls), not found)

    async def generate(self, name: str, instructions: str, schema: dict[str, Any]) -> Any:
        """A task whose answer follows a schema; tools are offered beside it. None where it called until the bound."""
        described = {"name": name, "strict": True, "schema": schema}
        said = await self.say(instructions, response_format={"type": "json_schema", "json_schema": described})
        return json.loads(said.text) if said.has_ended else None

    async def _answer(self, **more: Any) -> tuple[str | None, list[Call]]:
        fields = self._options | {"user": self._conversation, "stream": self._is_streamed, "tools": TOOLS} | more
        result = await self._api.chat.completions.create(model=self._model, messages=self.messages, **fields)
        if self._is_streamed:
            async with result:
                return await _read(result)
        message = result.choices[0].message
        calls = [Call(one.id, one.function.name, _read_arguments(one)) for one in message.tool_calls or ()]
        return message.content, calls


async def check_server(api: openai.AsyncOpenAI, model: str) -> bool:
    """What is done when a server is added: its models are listed, and two short answers wanted beside a tool. Whether
    the model is in the list."""
    found = [one.id async for one in await api.with_options(timeout=10.0).models.list()]
    for stream in (False, True):
        result: Any = await api.chat.completions.create(
            model=model, messages=_TEST_MESSAGES, tools=_TEST_TOOLS, max_tokens=3, stream=stream
        )
        if stream:
            async for _ in result:
                pass
    return model in found


async def _read(stream: AsyncIterator[Any]) -> tuple[str | None, list[Call]]:
    """Its way to read a stream: the role comes before any call; once a call has begun no text is looked at, and of an
    event's calls the first alone, and nothing of the event that has a finish reason."""
    content: str | None = None
    calls: list[dict[str, Any]] = []
    has_role = False
    async for chunk in stream:
        if not chunk.choices:
            continue
        if chunk.choices[0].finish_reason:
            break
        delta = chunk.choices[0].delta
        if delta.tool_calls and (one := delta.tool_calls[0]).function:
            assert has_role, "a call before the role: it would be no assistant's"
            if calls and one.index == calls[-1]["index"]:
                calls[-1]["arguments"] += one.function.arguments or ""
            else:
                function = {"name": one.function.name, "arguments": one.function.arguments or ""}
                calls.append({"index": one.index, "id": one.id} | function)
        elif not calls:
            has_role = has_role or delta.role == "assistant"
            content = content if delta.content is None else (content or "") + delta.content
    return content, [Call(one["id"], one["name"], json.loads(one["arguments"] or "{}")) for one in calls]


def _read_arguments(call: Any) -> Any:
    return json.loads(call.function.arguments)


def _assistant(content: str | None, calls: list[Call]) -> dict[str, Any]:
    """As it goes back: arguments are written anew, without spaces."""
    if not calls:
        return {"role": "assistant", "content": content or ""}
    told = [
        {
            "type": "function",
            "id": one.id,
            "function": {"name": one.name, "arguments": json.dumps(one.arguments, separators=(",", ":"))},
        }
        for one in calls
    ]
    return {"role": "assistant", "content": content, "tool_calls": told}
