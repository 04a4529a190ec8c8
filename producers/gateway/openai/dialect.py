"""The OpenAI API as a dialect of the gateway: where what is posted, and what reads and tells it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from producers.gateway.dialect import Plain, Turned
from producers.gateway.errors import ApiError
from producers.gateway.openai.chat import ChatRequest
from producers.gateway.openai.completions import CompletionRequest
from producers.gateway.openai.embeddings import EmbeddingsRequest
from producers.gateway.openai.errors import ERROR_SCHEMA, error_body
from producers.gateway.openai.fields import HARMLESS, RESPONSES_HARMLESS
from producers.gateway.openai.listing import entry
from producers.gateway.openai.prompts import ChatCountRequest, TemplateRequest
from producers.gateway.openai.response_store import ResponseStore
from producers.gateway.openai.responses import CountRequest, ResponsesRequest
from producers.gateway.responses import json_response
from producers.gateway.visits import Visit


class OpenAi:
    """OpenAI's, chats, completions, vectors and responses."""

    media_type = "text/event-stream"
    error_schema = ERROR_SCHEMA

    def __init__(self, *, num_clients: int = 1) -> None:
        chat = Turned(ChatRequest, "A chat's next turn", HARMLESS)
        completion = Turned(CompletionRequest, "Texts' continuations, without the model's template", HARMLESS)
        self.turns: dict[str, Turned] = {
            "/v1/chat/completions": chat,
            "/chat/completions": chat,
            "/v1/completions": completion,
            "/v1/embeddings": Turned(EmbeddingsRequest, "The vectors of texts"),
        }
        counted = Turned(ChatCountRequest, "How many tokens the prompt of a chat has", HARMLESS)
        self.turns |= {f"{prefix}/chat/completions/input_tokens": counted for prefix in ("/v1", "")}
        self.turns["/apply-template"] = Turned(TemplateRequest, "The prompt of a chat", HARMLESS)
        store = ResponseStore(num_clients)
        response = Turned(ResponsesRequest, "A response", RESPONSES_HARMLESS, store.before, store.after)
        count = Turned(CountRequest, "How many tokens the prompt of a response has", RESPONSES_HARMLESS, store.before)
        for prefix in ("/v1", ""):
            self.turns |= {f"{prefix}/responses": response, f"{prefix}/responses/input_tokens": count}
        listed, one = "Models and policies that are served", "One of them"
        self.plain: Sequence[Plain] = [
            *(Plain("GET", path, _models, listed) for path in ("/v1/models", "/models")),
            *(
                Plain("GET", f"{path}/{{model:path}}", _model, one, statuses=(404,))
                for path in ("/v1/models", "/models")
            ),
            Plain("GET", "/v1/responses/{response}", store.read, "A response that was kept", statuses=(404, 503)),
            Plain("DELETE", "/v1/responses/{response}", store.forget, "Forgets it", statuses=(404, 503)),
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
