"""Answers that are told whole and never in a stream. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from broker.messages import Chunk, Done, Started
from producers.gateway.errors import ApiError


class WholeWriter:
    """What an AnswerWriter has to say in a stream that there is none of: nothing."""

    media_type = "application/json"

    def goes_to(self, index: int, turn: str, model: str) -> None:
        """Nothing is said of it."""

    def begun_with(self, index: int, started: Started) -> None:
        """Nothing is said of it."""

    def begin(self, index: int) -> bytes:
        """Nothing."""
        return b""

    def piece(self, index: int, chunk: Chunk) -> bytes:
        """Nothing."""
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
        """Nothing."""
        return b""

    def comment(self, text: str) -> bytes:
        """Nothing."""
        return b""
