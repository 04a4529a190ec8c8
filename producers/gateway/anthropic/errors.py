"""What went wrong, in the words of Anthropic's API. Pure."""

from __future__ import annotations

from typing import Any

from broker.messages import Failed
from producers.gateway import failures
from producers.gateway.errors import ApiError

_TYPES: dict[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: ApiError) -> dict[str, Any]:
    """The API's error object, with our code where there is one."""
    kind = _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    found = {"type": kind, "message": error.message} | ({"code": error.code} if error.code else {})
    return {"type": "error", "error": found | error.facts}


ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}, "code": {"type": "string"}},
        },
    },
}


def error_of(failed: Failed) -> ApiError:
    """What a failed turn is to the API."""
    error = failures.error_of(failed, {"sampling.json_schema": "output_config.format.schema"})
    if failed.code == "prompt_too_long" and (facts := error.facts):
        # The words by which the API's clients know that they must shorten their history.
        message = f"prompt is too long: {facts['n_prompt_tokens']} tokens > {facts['n_ctx']} maximum"
        return ApiError(error.status, message, param=error.param, code=error.code, facts=facts)
    return error
