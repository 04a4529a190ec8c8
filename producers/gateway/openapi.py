"""The gateway's OpenAPI document: what is the same for every dialect, and the dialect's own paths in front of it."""

from __future__ import annotations

from typing import Any

from broker.priorities import PRIORITIES
from producers.gateway.dialect import Dialect

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


def document(version: str, dialect: Dialect, *, keys_are_wanted: bool) -> dict[str, Any]:
    """OpenAPI 3.1."""
    paths, schemas = dialect.paths()
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Turnpike's gateway", "version": version},
        "paths": paths
        | {
            "/turns/{turn}": {
                "get": get("A turn of one's own from its beginning on, as a stream", 401, 404, 503, stream=True)
                | {"parameters": [in_path("turn"), _MODEL]},
                "delete": {
                    "summary": "Stops it",
                    "parameters": [in_path("turn")],
                    "responses": {"204": {"description": "Told to whoever has it"}} | _errors(401, 404, 503),
                },
            },
            "/cluster": {
                "get": get("Boards, models, queues and workers, and one's own turns that have not ended", 401, 503)
            },
            "/health": {"get": get("Whether turns are taken", 503)},
            "/health/live": {"get": get("Whether the process runs")},
            "/health/ready": {"get": get("Whether turns are taken", 503)},
        },
        "components": {"schemas": schemas},
    }
    if keys_are_wanted:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def in_path(name: str) -> dict[str, Any]:
    """A parameter that is a part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _errors(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": _ERRORS[status], "content": content} for status in statuses}


def _ok(stream: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"200": {"description": "Well", "content": content}}


def get(
    summary: str, *statuses: int, stream: bool = False, parameters: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A GET of JSON, or also of a stream, and the statuses of what may go wrong."""
    return {"summary": summary, "parameters": parameters or [], "responses": _ok(stream) | _errors(*statuses)}


def post_turn(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The POST of a turn whose body is of that schema."""
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
