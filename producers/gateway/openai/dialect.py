"""The OpenAI API as a dialect of the gateway: where what is posted, and what reads and tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from producers.gateway.dialect import Plain, Turned
from producers.gateway.errors import ApiError
from producers.gateway.openai.chat import ChatRequest, ChatWithoutTools
from producers.gateway.openai.completions import CompletionRequest
from producers.gateway.openai.errors import ERROR_SCHEMA, error_body
from producers.gateway.openai.fields import HARMLESS
from producers.gateway.openai.listing import entry
from producers.gateway.responses import json_response
from producers.gateway.visits import Visit


class OpenAi:
    """With `leave_out_tools` requests that offer tools are taken, and answered without."""

    media_type = "text/event-stream"
    error_schema = ERROR_SCHEMA

    def __init__(self, *, leave_out_tools: bool) -> None:
        chat = Turned(ChatWithoutTools if leave_out_tools else ChatRequest, "A chat's next turn", HARMLESS)
        completion = Turned(CompletionRequest, "Texts' continuations, without the model's template", HARMLESS)
        self.turns: Mapping[str, Turned] = {
            "/v1/chat/completions": chat,
            "/chat/completions": chat,
            "/v1/completions": completion,
        }
        listed, one = "Models and policies that are served", "One of them"
        self.plain: Sequence[Plain] = [
            *(Plain("GET", path, _models, listed) for path in ("/v1/models", "/models")),
            *(
                Plain("GET", f"{path}/{{model:path}}", _model, one, statuses=(404,))
                for path in ("/v1/models", "/models")
            ),
        ]

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """The API's error object."""
        return error_body(error)


async def _models(visit: Visit) -> Response:
    return json_response({"object": "list", "data": [entry(one) for one in (await visit.models()).values()]})


async def _model(visit: Visit) -> Response:
    if not (name := visit.path_parameter("model")):
        return await _models(visit)
    return json_response(entry(await visit.model(name)))
