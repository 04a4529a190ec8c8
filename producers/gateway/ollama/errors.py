"""What went wrong, in Ollama's words: one text. Pure."""

from __future__ import annotations

from typing import Any

from broker.messages import Failed
from producers.gateway.errors import ApiError

STATUSES = {
    "prompt_too_long": 400,
    "invalid_grammar": 400,
    "invalid_message": 400,
    "invalid_template": 400,
    "empty_prompt": 400,
    "answer_too_large": 400,
    "deadline": 408,
    "overloaded": 503,
    "not_loaded": 503,
}
"""Of docs/protocol.md's codes; a 500 for any other."""
SCHEMA_FIELD = "sampling.json_schema"


def error_body(error: ApiError) -> dict[str, Any]:
    """The API's error object."""
    return {"error": error.message}


def error_of(failed: Failed) -> ApiError:
    """What a failed turn is to the API."""
    status = STATUSES.get(failed.code, 500)
    detail = failed.detail
    if detail.startswith(SCHEMA_FIELD):
        detail = "format" + detail.removeprefix(SCHEMA_FIELD)
    elif failed.code == "prompt_too_long":
        detail = f"{detail}: the input length exceeds the context length"
    kind = "invalid_request_error" if status == 400 else "server_error"
    return ApiError(status, detail, kind=kind, code=failed.code, retry_after=failed.retry_after)
