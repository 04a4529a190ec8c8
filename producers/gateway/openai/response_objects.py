"""A response as the Responses API has it, and its items. Pure but for the clock."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from broker.messages import Done, TokenLogprob, Usage
from producers.gateway.errors import ApiError
from producers.gateway.logprobs import logprob_of
from producers.gateway.parts import Part

PREFIX = "resp_"


def usage_of(usage: Usage) -> dict[str, Any]:
    """The tokens: those from the cache are among the input's, those of thoughts among the output's."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def logprobs_of(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Of an answer's tokens, each with the likeliest ones there."""
    return [logprob_of(token) for token in logprobs]


def text_part(text: str, logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    """What a message is made of."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs_of(logprobs)}


def item_id(turn: str, part: Part) -> str:
    """Of a part of that turn's answer."""
    prefix = {"thoughts": "rs", "text": "msg", "call": "fc"}[part.kind]
    return f"{prefix}_{turn}_{part.index}"


def item(turn: str, part: Part, status: str) -> dict[str, Any]:
    """A part as the item that it is: as far as it came while it is `in_progress`, empty at first."""
    found: dict[str, Any] = {"id": item_id(turn, part), "status": status}
    match part.kind:
        case "thoughts":
            content = [{"type": "reasoning_text", "text": part.text}] if part.text else []
            return found | {"type": "reasoning", "summary": [], "content": content, "encrypted_content": None}
        case "text":
            content = [text_part(part.text, part.logprobs)] if part.text or part.logprobs else []
            return found | {"type": "message", "role": "assistant", "content": content}
    return found | {"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.text}


def status_of(done: Done) -> str:
    """Of a response with that end."""
    return {"length": "incomplete", "cancelled": "cancelled"}.get(done.finish_reason, "completed")


class ResponseObject:
    """One response: what was asked for is told back, as `asked` has it."""

    def __init__(self, turn: str, model: str, asked: Mapping[str, Any]) -> None:
        self.turn = turn
        self.model = model
        self._asked = dict(asked)
        self._created_at = time.time()

    @property
    def id(self) -> str:
        """By which it is asked for later."""
        return PREFIX + self.turn

    def goes_to(self, turn: str, model: str) -> None:
        """From now on it is that turn's, of that model."""
        self.turn, self.model = turn, model

    def begun(self) -> dict[str, Any]:
        """While it is answered."""
        return self._object("in_progress", [])

    def ended(self, done: Done, output: Sequence[dict[str, Any]], *, is_stored: bool) -> dict[str, Any]:
        """With its end."""
        status = status_of(done)
        found = self._object(status, output) | {"usage": usage_of(done.usage), "store": is_stored}
        found["completed_at"] = time.time() if status == "completed" else None
        return found | {"incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None}

    def failed(self, error: ApiError) -> dict[str, Any]:
        """Where something went wrong once it was begun."""
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        code = "invalid_prompt" if error.status == 400 else code
        return self._object("failed", []) | {"error": {"code": code, "message": error.message}}

    def _object(self, status: str, output: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": self.model,
            "output": [*output],
            "usage": None,
            **self._asked,
        }
