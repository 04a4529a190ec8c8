"""The OpenAI API's part of the OpenAPI document, made of the very types that its bodies are checked by."""

from __future__ import annotations

from typing import Any

import msgspec

from producers.gateway.openai.requests import ChatRequest, CompletionRequest
from producers.gateway.openapi import get, in_path, post_turn


def paths() -> tuple[dict[str, Any], dict[str, Any]]:
    """The paths, and the schemas that they refer to; that of an error among them."""
    kinds = (ChatRequest, CompletionRequest)
    (chat, completion), schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schemas["Error"] = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    }
    found = {
        "/v1/chat/completions": {"post": post_turn("A chat's next turn", chat)},
        "/v1/completions": {"post": post_turn("A text's continuation, without the model's template", completion)},
        "/v1/models": {"get": get("Models and policies that are served", 401)},
        "/v1/models/{model}": {"get": get("One of them", 401, 404, parameters=[in_path("model")])},
    }
    return found, schemas
