"""Anthropic's Messages API as a dialect of the gateway: where what is posted, and what reads and tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from producers.gateway.anthropic.errors import ERROR_SCHEMA, error_body
from producers.gateway.anthropic.listing import entry, page
from producers.gateway.anthropic.requests import CountRequest, MessagesRequest
from producers.gateway.dialect import Plain, Turned
from producers.gateway.errors import ApiError
from producers.gateway.responses import json_response
from producers.gateway.visits import Visit

VERSION = "anthropic-version"
"""The header that the API's clients send with each request: by it they are known where other dialects have the path."""


class Anthropic:
    """Anthropic's."""

    media_type = "text/event-stream"
    error_schema = ERROR_SCHEMA

    def __init__(self) -> None:
        messages = Turned(MessagesRequest, "A conversation's next message")
        count = Turned(CountRequest, "How many tokens a conversation has as a prompt")
        self.turns: Mapping[str, Turned] = {
            f"{prefix}/messages{path}": turned
            for prefix in ("/v1", "")
            for path, turned in (("", messages), ("/count_tokens", count))
        }
        listed, one = "Models and policies that are served, in pages", "One of them"
        self.plain: Sequence[Plain] = [
            *(
                Plain("GET", path, _models, listed, statuses=(400,), header=VERSION)
                for path in ("/v1/models", "/models")
            ),
            *(
                Plain("GET", f"{path}/{{model:path}}", _model, one, statuses=(404,), header=VERSION)
                for path in ("/v1/models", "/models")
            ),
        ]

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """The API's error object."""
        return error_body(error)


async def _models(visit: Visit) -> Response:
    return json_response(page([*(await visit.models()).values()], visit.request.query_params))


async def _model(visit: Visit) -> Response:
    return json_response(entry(await visit.model(visit.path_parameter("model"))))
