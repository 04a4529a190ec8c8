"""Answers to turns that make a prompt and nothing more: their text, their tokens, or how many these are. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from broker.messages import Done, Failed, Sampling
from producers.gateway.dialect import Asked, Finished
from producers.gateway.errors import ApiError
from producers.gateway.failures import error_of
from producers.gateway.whole import WholeWriter


def prompt_of(asked: Asked) -> Asked:
    """The turn that tells the prompt of another one."""
    more = {name: one for name, one in asked.more.items() if name != "progress"} | {"kind": "prompt"}
    sampling = Sampling(thinking=asked.sampling.thinking)  # which the template hears of
    return dataclasses.replace(asked, sampling=sampling, more=more)


def spelled(done: Done) -> str:
    """A prompt as the model gets it, with all its control tokens."""
    return b"".join(done.pieces).decode(errors="replace")


class PromptWriter(WholeWriter):
    """Tells the one prompt by `tell`; there are no streams of it."""

    def __init__(self, tell: Callable[[Done], Any], fields: Mapping[str, str] | None = None) -> None:
        """`fields` are a request's names of a turn's fields that a worker refuses."""
        self._tell = tell
        self._fields = fields or {}

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the API."""
        return error_of(failed, self._fields)

    def whole(self, answers: Sequence[Finished]) -> Any:
        """The prompt."""
        return self._tell(answers[0].done)
