"""Answers in the OpenAI API's words, whole or in server-sent events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import msgspec

from broker.messages import Chunk, Done, Failed, Started
from producers.gateway.dialect import Finished
from producers.gateway.errors import ApiError
from producers.gateway.failures import error_of
from producers.gateway.openai.answer_objects import AnswerObjects
from producers.gateway.openai.errors import FIELDS, error_body
from producers.gateway.rendering import spelled
from producers.gateway.timings import timings


class Writer:
    """Tells the answers. With `has_usage` a stream's last event tells the tokens."""

    media_type = "text/event-stream"

    def __init__(
        self,
        turn: str,
        model: str,
        *,
        is_chat: bool,
        has_usage: bool = False,
        is_silent: bool = False,
        num_answers: int = 1,
        has_timings: bool = False,
        tells_prompt: bool = False,
    ) -> None:
        """With `tells_prompt` the last of the answers is the prompt."""
        self._objects = AnswerObjects(turn, model, is_chat, is_silent, num_answers, has_timings)
        self._has_usage = has_usage
        self._tells_prompt = tells_prompt

    @classmethod
    def of_turn(cls, turn: str) -> Self:
        """A turn that is read by its id is told as a chat, with its tokens."""
        return cls(turn, "unknown", is_chat=True, has_usage=True)

    def goes_to(self, index: int, turn: str, model: str) -> None:
        """From now on the answer is that turn's, of that model."""
        self._objects.goes_to(index, turn, model)

    def begun_with(self, index: int, started: Started) -> None:
        """A worker has begun."""
        self._objects.begun_with(started.model)

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the API."""
        return error_of(failed, FIELDS)

    def whole(self, answers: Sequence[Finished]) -> dict[str, Any]:
        """The answers in one object."""
        if not self._tells_prompt:
            return self._objects.whole(answers)
        *answers, prompt = answers
        told = {"prompt": spelled(prompt.done), "content": answers[0].done.text, "timings": timings(answers[0].done)}
        return self._objects.whole(answers) | {"__verbose": told}

    def begin(self, index: int) -> bytes:
        """Whose words follow; nothing in front of a completion's."""
        begin = self._objects.begin(index)
        return _event(begin) if begin is not None else b""

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """The next events."""
        return b"".join(map(_event, self._objects.chunks(index, chunk)))

    def go_on_at(self, index: int, num_characters: int) -> None:
        """The next piece stands behind so many characters of the text."""
        self._objects.go_on_at(index, num_characters)

    def end(self, index: int, done: Done) -> bytes:
        """Why it ended."""
        return _event(self._objects.end(index, done))

    def finish(self, dones: Sequence[Done], details: bytes = b"") -> bytes:
        """The tokens where they are wanted, the details, and that nothing follows."""
        usage = _event(self._objects.usage(dones)) if self._has_usage else b""
        return usage + details + b"data: [DONE]\n\n"

    def broken_off(self, error: ApiError) -> bytes:
        """The error as the last event."""
        return _event(error_body(error))

    def comment(self, text: str) -> bytes:
        """A line that event streams' readers skip."""
        return f": {text}\n\n".encode()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
