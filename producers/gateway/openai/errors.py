"""What went wrong, in OpenAI's words. Pure."""

from __future__ import annotations

from typing import Any

from producers.gateway.errors import ApiError

FIELDS = {"sampling.json_schema": "response_format.json_schema.schema"}
"""Of a turn, by their names in a request."""

ERROR_SCHEMA: dict[str, Any] = {
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


def error_body(error: ApiError) -> dict[str, Any]:
    """The API's error object."""
    found = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return {"error": found | error.facts}
