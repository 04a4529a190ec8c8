"""The OpenAI API as a dialect of the gateway: where what is posted, and what reads and tells it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from broker.discovery import WorkerInfo
from broker.model_status import ModelStatus
from producers.gateway.dialect import ReadBody
from producers.gateway.errors import ApiError
from producers.gateway.openai import openapi
from producers.gateway.openai.answers import Writer
from producers.gateway.openai.errors import error_body
from producers.gateway.openai.listing import Listing
from producers.gateway.openai.requests import ChatRequest, ChatWithoutTools, CompletionRequest, parse


class OpenAi:
    """With `leave_out_tools` requests that offer tools are taken, and answered without."""

    models_path = "/v1/models"

    def __init__(self, *, leave_out_tools: bool) -> None:
        self._chat = ChatWithoutTools if leave_out_tools else ChatRequest
        self._listing = Listing()
        self.turns: Mapping[str, ReadBody] = {
            "/v1/chat/completions": self._read_chat,
            "/v1/completions": self._read_completion,
        }

    def _read_chat(self, body: bytes) -> ChatRequest:
        return parse(body, self._chat)

    def _read_completion(self, body: bytes) -> CompletionRequest:
        return parse(body, CompletionRequest)

    def note(self, workers: Iterable[WorkerInfo]) -> None:
        """Takes note of the workers that are there as of now."""
        self._listing.note(workers)

    def models(
        self, workers: Iterable[WorkerInfo], boards: Mapping[str, ModelStatus], policies: Iterable[str]
    ) -> dict[str, dict[str, Any]]:
        """What is served just now, and what boards would load, by its name; the policies where there is anything."""
        return self._listing.of(workers, boards, policies)

    def model_list(self, models: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """All of them in one object."""
        return {"object": "list", "data": [*models.values()]}

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """The API's error object."""
        return error_body(error)

    def writer_of(self, turn: str) -> Writer:
        """A turn that is read by its id is told as a chat, with its tokens."""
        return Writer(turn, "unknown", is_chat=True, has_usage=True)

    def paths(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of the OpenAPI document: the dialect's paths, and the schemas that they refer to."""
        return openapi.paths()
