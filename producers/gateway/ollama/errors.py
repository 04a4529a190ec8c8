"""What went wrong, in Ollama's words: one text. Pure."""

from __future__ import annotations

from typing import Any

from broker.messages import Failed
from producers.gateway import failures
from producers.gateway.errors import ApiError

FIELDS = {"sampling.json_schema": "format"}
"""The API's names of a turn's fields that a worker refuses."""
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}


def error_body(error: ApiError) -> dict[str, Any]:
    """The API's error object. That a model was not found is what clients look for."""
    is_unnamed = error.code == "model_not_found" and "not found" not in error.message
    return {"error": f"model not found: {error.message}" if is_unnamed else error.message}


def error_of(failed: Failed) -> ApiError:
    """What a failed turn is to the API."""
    return failures.error_of(failed, FIELDS)
