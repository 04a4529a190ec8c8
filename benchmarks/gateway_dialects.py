"""The dialects that the gateway is measured in: what is posted where, and how a reader sees a text in a line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.http_reader import HttpReader
from broker.client import Client
from broker.messages import Message, Sampling
from broker.priorities import DEFAULT_PRIORITY

MODEL = "m"
SLOW = "slow"
"""Whose tokens take their time."""
VECTORS = "e"


@dataclass(frozen=True)
class Came:
    """What came of one request: seconds to the first of it, and how many characters, or vectors."""

    first_seconds: float
    num: int


@dataclass(frozen=True)
class Spoken:
    """One dialect: its streamed request, and the text that an event adds."""

    name: str
    path: str
    asked: Callable[[str], dict[str, Any]]
    """The body, but for the model and that it is streamed."""
    limit: Callable[[int], dict[str, Any]]
    """So many tokens, in the body's words."""
    text: Callable[[dict[str, Any]], str]
    mark: str = "data: "
    """In front of a line's object."""
    is_raw: bool = False
    """Whether our own client, to be compared with, asks without the model's template, too."""
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, model: str, text: str, max_tokens: int) -> dict[str, Any]:
        """The body."""
        return {"model": model, "stream": True, **self.asked(text), **self.limit(max_tokens)}

    async def ask(self, http: HttpReader, model: str, text: str, max_tokens: int) -> Came:
        """Through the gateway, read to its end."""
        body = self.request(model, text, max_tokens)
        began_at = time.perf_counter()
        first: float | None = None
        num = 0
        rest, mark = b"", self.mark.encode() + b"{"
        async for part in http.post(self.path, body, self.headers):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line.startswith(mark) and (piece := self.text(json.loads(line[len(mark) - 1 :]))):
                    first = first if first is not None else time.perf_counter() - began_at
                    num += len(piece)
        assert first is not None
        return Came(first, num)

    async def ask_ourselves(self, client: Client, model: str, text: str, max_tokens: int) -> Came:
        """The same by our own client."""
        began_at = time.perf_counter()
        first: float | None = None
        num = 0
        messages = [Message("user", text)]
        async for chunk in client.ask(model, messages, sampling=Sampling(max_tokens=max_tokens), raw=self.is_raw):
            first = first if first is not None or not chunk.text else time.perf_counter() - began_at
            num += len(chunk.text)
        assert first is not None
        return Came(first, num)


@dataclass(frozen=True)
class Embedded:
    """Vectors come whole: the first of them is all of them."""

    name: str = "embeddings"
    path: str = "/v1/embeddings"

    async def ask(self, http: HttpReader, model: str, text: str, max_tokens: int) -> Came:
        """Through the gateway; a vector, whatever the number of tokens, and the model is that of vectors."""
        began_at = time.perf_counter()
        whole = b"".join([part async for part in http.post(self.path, {"model": VECTORS, "input": text})])
        assert json.loads(whole)["data"][0]["embedding"]
        return Came(time.perf_counter() - began_at, max_tokens)

    async def ask_ourselves(self, client: Client, model: str, text: str, max_tokens: int) -> Came:
        """The same by our own client."""
        began_at = time.perf_counter()
        vectors = await client.embed(VECTORS, [text], priority=DEFAULT_PRIORITY)
        assert len(vectors) == 1
        return Came(time.perf_counter() - began_at, max_tokens)


Asked = Spoken | Embedded


def _chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def _prompt(text: str) -> dict[str, Any]:
    return {"prompt": text}


def _max_tokens(num: int) -> dict[str, Any]:
    return {"max_tokens": num}


def _num_predict(num: int) -> dict[str, Any]:
    return {"options": {"num_predict": num}}


def _of_choice(event: dict[str, Any]) -> str:
    return event["choices"][0]["delta"].get("content") or "" if event["choices"] else ""


def _of_item(event: dict[str, Any]) -> str:
    return event["delta"] if event["type"] == "response.output_text.delta" else ""


def _of_block(event: dict[str, Any]) -> str:
    return event["delta"].get("text", "") if event["type"] == "content_block_delta" else ""


DIALECTS: tuple[Asked, ...] = (
    Spoken("chat", "/v1/chat/completions", _chat, _max_tokens, _of_choice),
    Spoken(
        "completions", "/v1/completions", _prompt, _max_tokens, lambda event: event["choices"][0]["text"], is_raw=True
    ),
    Spoken(
        "responses",
        "/v1/responses",
        lambda text: {"input": text},
        lambda num: {"max_output_tokens": num},
        _of_item,
    ),
    Spoken("messages", "/v1/messages", _chat, _max_tokens, _of_block, headers={"anthropic-version": "2023-06-01"}),
    Spoken("ollama chat", "/api/chat", _chat, _num_predict, lambda line: line["message"]["content"], mark=""),
    Spoken("ollama generate", "/api/generate", _prompt, _num_predict, lambda line: line["response"], mark=""),
    Spoken(
        "native", "/completion", _prompt, lambda num: {"n_predict": num}, lambda event: event["content"], is_raw=True
    ),
    Embedded(),
)
