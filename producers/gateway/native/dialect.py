"""llama-server's API as a dialect of the gateway: its paths. What it shares with OpenAI's stands there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from producers.gateway.dialect import Plain, Turned
from producers.gateway.errors import ApiError
from producers.gateway.native import server
from producers.gateway.native.completion import CompletionBody
from producers.gateway.native.embeddings import EmbeddingBody
from producers.gateway.native.errors import ERROR_SCHEMA, error_body
from producers.gateway.native.infill import InfillBody
from producers.gateway.native.sampling import HARMLESS
from producers.gateway.native.tokens import DetokenizeBody, TokenizeBody


class Native:
    """llama-server's own."""

    media_type = "text/event-stream"
    error_schema = ERROR_SCHEMA

    def __init__(self, *, has_slots: bool = True) -> None:
        """Without slots nobody is told of them."""
        completion = Turned(CompletionBody, "A prompt's continuation, in llama-server's shape", HARMLESS)
        self.turns: Mapping[str, Turned] = {
            "/completion": completion,
            "/completions": completion,
            "/infill": Turned(InfillBody, "What stands between two texts", HARMLESS),
            **dict.fromkeys(("/embedding", "/embeddings"), Turned(EmbeddingBody, "The vectors of texts")),
            "/tokenize": Turned(TokenizeBody, "A text's tokens"),
            "/detokenize": Turned(DetokenizeBody, "The text of tokens"),
        }
        slots = server.slots if has_slots else server.no_slots
        self.plain: Sequence[Plain] = [
            Plain(
                "GET", "/props", partial(server.props, has_slots=has_slots), "A model's settings", statuses=(404, 503)
            ),
            Plain("GET", "/slots", slots, "A model's slots", statuses=(404, 501, 503)),
            Plain("GET", "/v1/health", server.health, "Whether it is well", needs_key=False),
        ]

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """llama-server's error object."""
        return error_body(error)
