"""What went wrong, in llama-server's words. Pure."""

from __future__ import annotations

from typing import Any

from producers.gateway.errors import ApiError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}
"""By status; every other is the server's."""
TOO_LONG = "exceed_context_size_error"
FIELDS = {"sampling.json_schema": "json_schema", "sampling.grammar": "grammar"}
"""Of a turn, by their names in a request."""
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "type"],
            "properties": {
                "code": {"type": "integer"},
                "message": {"type": "string"},
                "type": {"type": "string"},
            },
        }
    },
}


def error_body(error: ApiError) -> dict[str, Any]:
    """llama-server's error object."""
    kind = TYPES.get(error.status, error.kind if error.status < 500 else "server_error")
    if error.code == "context_length_exceeded":
        kind = TOO_LONG
    return {"error": {"code": error.status, "message": error.message, "type": kind} | error.facts}
