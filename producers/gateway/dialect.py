"""Where a dialect begins and ends: a body becomes a turn, an answer's events become what a client reads, a failure a
status and a body. All else is the same for every API in front of the queue; `openai/` is the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from broker.discovery import WorkerInfo
from broker.messages import Chunk, Done, Failed, Message, Sampling, TokenLogprob, Tool, ToolChoice
from broker.model_status import ModelStatus
from producers.gateway.errors import ApiError


class AnswerWriter(Protocol):
    """One answer in a dialect's words: whole, or as the pieces of a stream's body in their order."""

    @property
    def media_type(self) -> str:
        """Of a stream."""

    def goes_to(self, turn: str, model: str) -> None:
        """From now on the answer is that turn's, of that model."""

    def begun_with(self, fingerprint: str) -> None:
        """A worker has begun; `fingerprint` names its model file."""

    def failure(self, failed: Failed) -> ApiError:
        """What a failed turn is to the client."""

    def whole(self, done: Done, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The answer in one object."""

    def begin(self) -> bytes:
        """What comes before the first piece; nothing where the dialect has no such thing."""

    def piece(self, chunk: Chunk) -> bytes:
        """The next piece. One of a higher attempt is the first of an answer that was begun anew."""

    def go_on_at(self, num_characters: int) -> None:
        """The next piece stands behind so many characters of the text."""

    def end(self, done: Done, details: bytes = b"") -> bytes:
        """What comes behind the last piece; `details`, a comment, in front of the mark that nothing follows."""

    def broken_off(self, error: ApiError) -> bytes:
        """The end of a stream that was begun and cannot go on."""

    def comment(self, text: str) -> bytes:
        """For who listens; other readers skip it. Nothing where the dialect's streams have no comments."""


@dataclass(frozen=True)
class Offer:
    """The tools that a model may call, and how."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = "auto"
    is_parallel: bool = True
    """Whether one answer may hold several calls."""


NOTHING = Offer()


class TurnRequest(Protocol):
    """What a body asks for."""

    @property
    def model(self) -> str:
        """A model, a policy, or nothing: then the file of routes may have a default."""

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages, the last of them to be answered. Raises ApiError."""

    @property
    def is_raw(self) -> bool:
        """Whether the one message is the prompt itself, without the model's template."""

    @property
    def template_kwargs(self) -> dict[str, Any] | None:
        """Variables for the model's chat template."""

    @property
    def offer(self) -> Offer:
        """The tools that the model may call."""

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is read in pieces."""

    @property
    def conversation(self) -> str | None:
        """Its name, any text, where the body gives one."""

    @property
    def left_out(self) -> str | None:
        """What was asked for and the model does not hear of; a header says so."""

    def sampling(self) -> Sampling:
        """How tokens are to be chosen, and how many. Raises ApiError."""

    def writer(self, turn: str, model: str) -> AnswerWriter:
        """Of its answer."""


ReadBody = Callable[[bytes], TurnRequest]
"""Raises ApiError, which names the field that is wrong."""


class Dialect(Protocol):
    """One API in front of the queue."""

    @property
    def turns(self) -> Mapping[str, ReadBody]:
        """The paths that turns are posted to, and what reads their bodies."""

    @property
    def models_path(self) -> str:
        """Where models are listed; below it stands each by its name."""

    def note(self, workers: Iterable[WorkerInfo]) -> None:
        """Takes note of the workers that are there as of now."""

    def models(
        self, workers: Iterable[WorkerInfo], boards: Mapping[str, ModelStatus], policies: Iterable[str]
    ) -> dict[str, dict[str, Any]]:
        """What is served just now, and what boards would load, by its name; the policies where there is anything."""

    def model_list(self, models: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """All of them in one object."""

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """What stands in the body where something went wrong."""

    def writer_of(self, turn: str) -> AnswerWriter:
        """Of a turn that is read by its id, whoever asked it."""

    def paths(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of the OpenAPI document: the dialect's paths, and the schemas that they refer to."""
