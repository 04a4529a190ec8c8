"""One answer in Ollama's words: an object, or a line of JSON for each of its pieces. Pure but for the clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from broker.messages import Chunk, Done, Failed, Message, Started, TokenLogprob, ToolCall
from producers.gateway.dialect import Finished
from producers.gateway.errors import ApiError
from producers.gateway.logprobs import logprob_of
from producers.gateway.ollama.errors import error_body, error_of
from producers.gateway.ollama.memory import packed
from producers.gateway.ollama.messages import tool_calls

LINES = "application/x-ndjson"


def line(value: dict[str, Any]) -> bytes:
    """An object of a stream."""
    return msgspec.json.encode(value) + b"\n"


def now() -> str:
    """As Ollama stamps its objects."""
    return stamp(datetime.now(UTC))


def stamp(at: datetime) -> str:
    """An instant in UTC."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def nanoseconds(seconds: float) -> int:
    """A duration as Ollama has it."""
    return round(seconds * 1e9)


def figures(done: Done) -> dict[str, Any]:
    """Of a whole answer: tokens and durations. To wait is Ollama's loading; a prompt's tokens count those that are
    cached."""
    timings, usage = done.timings, done.usage
    loading = timings.queue_wait + timings.fetch
    return {
        "total_duration": nanoseconds(loading + timings.prefill + timings.decode),
        "load_duration": nanoseconds(loading),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": nanoseconds(timings.prefill),
        "eval_count": usage.completion_tokens,
        "eval_duration": nanoseconds(timings.decode),
    }


def done_reason(done: Done) -> str:
    """`stop`, also where it called tools or was stopped, or `length`."""
    return "length" if done.finish_reason == "length" else "stop"


def logprobs_of(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The field, where there are any."""
    return {"logprobs": [logprob_of(token) for token in logprobs]} if logprobs else {}


class Writer:
    """Tells one answer under the name that its model was asked for by. `remembers` are the messages before a generated
    answer that its `context` is to hold; None for none. `nothing` is the reason where nothing was asked."""

    media_type = LINES

    def __init__(
        self, model: str, *, is_chat: bool, remembers: Sequence[Message] | None = None, nothing: str = "load"
    ) -> None:
        self._model = model
        self._nothing = nothing
        self._is_chat = is_chat
        self._remembers = remembers

    def goes_to(self, index: int, turn: str, model: str) -> None:
        """A client knows its model by the name that it asked for; a header tells the other."""

    def begun_with(self, index: int, started: Started) -> None:
        """Ollama tells nothing of the file."""

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the API."""
        return error_of(failed)

    def _object(self, text: str, more: dict[str, Any], thinking: str = "", calls: Sequence[ToolCall] = ()) -> Any:
        besides: dict[str, Any] = {}
        if thinking:
            besides["thinking"] = thinking
        if calls:
            besides["tool_calls"] = tool_calls(calls)
        found: dict[str, Any] = {"model": self._model, "created_at": now()}
        if self._is_chat:
            return found | {"message": {"role": "assistant", "content": text} | besides} | more
        return found | {"response": text} | besides | more

    def whole(self, answers: Sequence[Finished]) -> Any:
        """The answer in one object."""
        if not answers:
            return self._object("", {"done": True, "done_reason": self._nothing})
        (one,) = answers
        more = self._ended(one.done) | logprobs_of(one.logprobs)
        return self._object(one.done.text, more, one.done.reasoning, one.done.tool_calls)

    def _ended(self, done: Done) -> dict[str, Any]:
        found: dict[str, Any] = {"done": True, "done_reason": done_reason(done)}
        if self._remembers is not None:
            found["context"] = packed([*self._remembers, Message("assistant", done.text)])
        return found | figures(done)

    def begin(self, index: int) -> bytes:
        """Nothing."""
        return b""

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """The next line; none for tokens that tell nothing yet. Calls are told whole, at the end."""
        if not (chunk.text or chunk.reasoning or chunk.logprobs):
            return b""
        return line(self._object(chunk.text, {"done": False} | logprobs_of(chunk.logprobs), chunk.reasoning))

    def go_on_at(self, index: int, num_characters: int) -> None:
        """No place is told."""

    def end(self, index: int, done: Done) -> bytes:
        """The calls, and why it ended, with its figures."""
        called = line(self._object("", {"done": False}, calls=done.tool_calls)) if done.tool_calls else b""
        return called + line(self._object("", self._ended(done)))

    def finish(self, dones: Sequence[Done], details: bytes = b"") -> bytes:
        """Nothing: the end is the last line."""
        return b""

    def broken_off(self, error: ApiError) -> bytes:
        """The error as the last line."""
        return line(error_body(error))

    def comment(self, text: str) -> bytes:
        """Nothing: every line is read."""
        return b""
