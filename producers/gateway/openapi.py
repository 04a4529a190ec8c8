"""The gateway's OpenAPI document, made of the very types that its bodies are checked by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from broker.priorities import PRIORITIES
from producers.gateway.dialect import Dialect, Plain, Turned

_ERRORS = {
    400: "Not understood, or not supported",
    401: "No key, or none that is known",
    403: "Not for clients to do",
    404: "No such model",
    408: "The deadline has passed, or the body came too slowly",
    413: "Too large",
    429: "Too many turns or tokens, or the queue is full: see Retry-After",
    500: "The turn was given up",
    501: "Switched off here",
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


def document(version: str, dialects: Sequence[Dialect], *, keys_are_wanted: bool, is_strict: bool) -> dict[str, Any]:
    """OpenAPI 3.1."""
    kinds: set[Any] = {one.kind for dialect in dialects for one in dialect.turns.values()}
    kinds |= {one.kind for dialect in dialects for one in dialect.plain if one.kind is not None}
    ordered = sorted(kinds, key=lambda one: (one.__name__, one.__module__))
    found_schemas, schemas = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    schema_of: dict[Any, Any] = dict(zip(ordered, found_schemas, strict=True))
    if not is_strict:
        for schema in schemas.values():
            schema.pop("additionalProperties", None)
    paths: dict[str, dict[str, Any]] = {}
    for dialect in dialects:
        error = _error_name(dialect, dialects)
        schemas[error] = dialect.error_schema
        told = _told(dialect)
        for path, turned in ((path, turned) for path, turned in dialect.turns.items() if path in told):
            operation = _post_turn(turned, schema_of[turned.kind], dialect.media_type, error)
            paths.setdefault(path, {})["post"] = operation
        for plain in (one for one in dialect.plain if one.header is None and one.path in told):
            operation = _plain(plain, schema_of.get(plain.kind), error)
            paths.setdefault(plain.path.replace(":path}", "}"), {})[plain.method.lower()] = operation
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Turnpike's gateway", "version": version},
        "paths": paths | _own_paths(),
        "components": {"schemas": schemas},
    }
    if keys_are_wanted:
        found["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        found["security"] = [{"key": []}, {"x-api-key": []}]
    return found


def _told(dialect: Dialect) -> set[str]:
    """Its paths, but those that are others without their `/v1`."""
    paths = {*dialect.turns, *(one.path for one in dialect.plain)}
    return {path for path in paths if f"/v1{path}" not in paths}


def _error_name(dialect: Dialect, dialects: Sequence[Dialect]) -> str:
    return "Error" if dialect is dialects[0] else f"{type(dialect).__name__}Error"


def _own_paths() -> dict[str, Any]:
    """What is no dialect's."""
    follow = _operation("A turn of one's own from its beginning on, as a stream", (401, 404, 503))
    follow["responses"]["200"] = _ok("text/event-stream")
    stop = _operation("Stops it", (401, 404, 503))
    stop["responses"]["204"] = {"description": "Told to whoever has it"}
    del stop["responses"]["200"]
    return {
        "/turns/{turn}": {
            "get": follow | {"parameters": [_in_path("turn"), _MODEL]},
            "delete": stop | {"parameters": [_in_path("turn")]},
        },
        "/cluster": {"get": _operation("Boards, models, queues and workers, and one's own turns in work", (401, 503))},
        "/health": {"get": _operation("Whether turns are taken", (503,))},
        "/health/live": {"get": _operation("Whether the process runs")},
        "/health/ready": {"get": _operation("Whether turns are taken", (503,))},
    }


def _in_path(name: str) -> dict[str, Any]:
    """A parameter that is a part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _errors(statuses: Iterable[int], error: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}
    return {str(status): {"description": _ERRORS[status], "content": content} for status in statuses}


def _ok(stream: str | None = None) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {}}}
    if stream is not None:
        content[stream] = {"schema": {"type": "string"}}
    return {"description": "Well", "content": content}


def _operation(
    summary: str, statuses: Iterable[int] = (), error: str = "Error", stream: str | None = None
) -> dict[str, Any]:
    return {"summary": summary, "parameters": [], "responses": {"200": _ok(stream)} | _errors(statuses, error)}


def _body(schema: Any) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _plain(plain: Plain, schema: Any, error: str) -> dict[str, Any]:
    statuses = [401, *plain.statuses] if plain.needs_key else [*plain.statuses]
    found = _operation(plain.summary, statuses, error, plain.media_type)
    names = re.findall(r"\{(\w+)(?::\w+)?\}", plain.path)
    found["parameters"] = [_in_path(name) for name in names]
    return found if schema is None else found | {"requestBody": _body(schema)}


def _post_turn(turned: Turned, schema: Any, stream: str, error: str) -> dict[str, Any]:
    found = _operation(turned.summary, _ERRORS, error, stream)
    parameters = [
        {"name": name, "in": "header", "description": text, "schema": {"type": "string", **more}}
        for name, (text, more) in _TURN_HEADERS.items()
    ]
    return found | {"parameters": parameters, "requestBody": _body(schema)}
