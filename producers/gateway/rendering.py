"""Answers to turns that make a prompt and nothing more: their text, their tokens, or how many these are. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from broker.discovery import PROMPT
from broker.messages import Chunk, Done, Failed, Sampling, Started
from producers.gateway.dialect import Asked, Finished
from producers.gateway.errors import ApiError
from producers.gateway.failures import error_of


def prompt_of(asked: Asked) -> Asked:
    """The turn that tells the prompt of another one."""
    more = {name: one for name, one in asked.more.items() if name != "progress"} | {"kind": "prompt"}
    sampling = Sampling(thinking=asked.sampling.thinking)  # which the template hears of
    return dataclasses.replace(asked, sampling=sampling, more=more, can=asked.can | {PROMPT})


def spelled(done: Done) -> str:
    """A prompt as the model gets it, with all its control tokens."""
    return b"".join(done.pieces).decode(errors="replace")


class PromptWriter:
    """Tells the one prompt by `tell`; there are no streams of it."""

    media_type = "application/json"

    def __init__(self, tell: Callable[[Done], Any], fields: Mapping[str, str] | None = None) -> None:
        """`fields` are a request's names of a turn's fields that a worker refuses."""
        self._tell = tell
        self._fields = fields or {}

    def goes_to(self, index: int, turn: str, model: str) -> None:
        """Nothing is said of it."""

    def begun_with(self, index: int, started: Started) -> None:
        """Nothing is said of it."""

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the API."""
        return error_of(failed, self._fields)

    def whole(self, answers: Sequence[Finished]) -> Any:
        """The prompt."""
        return self._tell(answers[0].done)

    def begin(self, index: int) -> bytes:
        """Nothing."""
        return b""

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """Nothing: a prompt comes with the end."""
        return b""

    def go_on_at(self, index: int, num_characters: int) -> None:
        """There are no pieces."""

    def end(self, index: int, done: Done) -> bytes:
        """Nothing."""
        return b""

    def finish(self, dones: Sequence[Done], details: bytes = b"") -> bytes:
        """Nothing."""
        return b""

    def broken_off(self, error: ApiError) -> bytes:
        """Nothing: there are no streams."""
        return b""

    def comment(self, text: str) -> bytes:
        """Nothing."""
        return b""
