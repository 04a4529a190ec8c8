"""The gateway's OpenAPI document, made of the very types that its bodies are checked by."""

from __future__ import annotations

from typing import Any

import msgspec

from broker.priorities import PRIORITIES
from producers.gateway.openai.dialect import ChatRequest, CompletionRequest

_ERRORS = {
    400: "Not understood, or not supported",
    401: "No key, or none that is known",
    404: "No such model",
    408: "The deadline has passed, or the body came too slowly",
    413: "Too large",
    429: "Too many turns or tokens, or the queue is full: see Retry-After",
    500: "The turn was given up",
    503: "No worker, or no queue just now",
}
_TURN_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Turnpike-Conversation": (
        "The conversation's name; without it, `prompt_cache_key` and `user`, what was said up to the last answer.",
        {},
    ),
    "Turnpike-Priority": ("", {"enum": list(PRIORITIES)}),
    "Turnpike-Deadline-Seconds": (
        "From now; after it the turn is given up. Until then it waits, also for a worker.",
        {"pattern": "^[0-9.]+$"},
    ),
    "Turnpike-Details": ("1: comments of a stream tell who answered, and how.", {"enum": ["1"]}),
    "Turnpike-Detached": ("1: the turn goes on when its reader leaves.", {"enum": ["1"]}),
}

_MODEL = {
    "name": "model",
    "in": "query",
    "description": "Its model, where that has no worker just now.",
    "schema": {"type": "string"},
}


def document(version: str, *, keys_are_wanted: bool) -> dict[str, Any]:
    """OpenAPI 3.1."""
    kinds = (ChatRequest, CompletionRequest)
    (chat, completion), components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    components["Error"] = {
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
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Turnpike's gateway", "version": version},
        "paths": {
            "/v1/chat/completions": {"post": _turn("A chat's next turn", chat)},
            "/v1/completions": {"post": _turn("A text's continuation, without the model's template", completion)},
            "/v1/models": {"get": _get("Models and policies that are served", 401)},
            "/v1/models/{model}": {"get": _get("One of them", 401, 404, parameters=[_path("model")])},
            "/turns/{turn}": {
                "get": _get("A turn of one's own from its beginning on, as a stream", 401, 404, 503, stream=True)
                | {"parameters": [_path("turn"), _MODEL]},
                "delete": {
                    "summary": "Stops it",
                    "parameters": [_path("turn")],
                    "responses": {"204": {"description": "Told to whoever has it"}} | _errors(401, 404, 503),
                },
            },
            "/health": {"get": _get("Whether turns are taken", 503)},
            "/health/live": {"get": _get("Whether the process runs")},
            "/health/ready": {"get": _get("Whether turns are taken", 503)},
        },
        "components": {"schemas": components},
    }
    if keys_are_wanted:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _errors(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": _ERRORS[status], "content": content} for status in statuses}


def _ok(stream: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"200": {"description": "Well", "content": content}}


def _get(
    summary: str, *statuses: int, stream: bool = False, parameters: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    return {"summary": summary, "parameters": parameters or [], "responses": _ok(stream) | _errors(*statuses)}


def _turn(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "header", "description": text, "schema": {"type": "string", **more}}
        for name, (text, more) in _TURN_HEADERS.items()
    ]
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _ok(stream=True) | _errors(*_ERRORS),
    }
