"""What went wrong, in OpenAI's words. Pure."""

from __future__ import annotations

import re
from typing import Any

from broker.messages import Failed
from producers.gateway.errors import ApiError

ERRORS: dict[str, tuple[int, str]] = {
    "prompt_too_long": (400, "context_length_exceeded"),
    "invalid_grammar": (400, "invalid_grammar"),
    "invalid_message": (400, "invalid_message"),
    "invalid_template": (400, "invalid_template"),
    "empty_prompt": (400, "empty_prompt"),
    "answer_too_large": (400, "answer_too_large"),
    "deadline": (408, "deadline"),
    "overloaded": (503, "overloaded"),
    "not_loaded": (503, "model_not_loaded"),
}
"""Of docs/protocol.md's codes. What is the client's own doing is a 400: its library asks again after a 500."""

SCHEMA_FIELD, SCHEMA_PARAM = "sampling.json_schema", "response_format.json_schema.schema"
_TOO_LONG = re.compile(r"(\d+) tokens, and the context holds (\d+)")


def error_body(error: ApiError) -> dict[str, Any]:
    """The API's error object."""
    found = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return {"error": found | error.facts}


def error_of(failed: Failed) -> ApiError:
    """What a failed turn is to the API."""
    if failed.code == "prompt_too_long":
        return _too_long(failed)
    status, code = ERRORS.get(failed.code, (500, failed.code))
    kind = "invalid_request_error" if status == 400 else "server_error"
    detail, param = failed.detail, None
    if failed.code == "invalid_grammar" and detail.startswith(SCHEMA_FIELD):
        # The turn's field has another name in the request.
        param = SCHEMA_PARAM
        detail = param + detail.removeprefix(SCHEMA_FIELD)
    return ApiError(
        status,
        detail,
        param=param,
        kind=kind,
        code=code,
        retry_after=failed.retry_after,
        may_retry=failed.retryable or status == 400,
    )


def _too_long(failed: Failed) -> ApiError:
    """In the words and with the numbers by which clients of OpenAI's API, and of llama-server, know it and shorten
    their history."""
    code = ERRORS[failed.code][1]
    if (found := _TOO_LONG.search(failed.detail)) is None:
        message = f"{failed.detail}: the request exceeds the available context size"
        return ApiError(400, message, param="messages", code=code)
    num_tokens, num_ctx = int(found[1]), int(found[2])
    message = (
        f"This model's maximum context length is {num_ctx} tokens. However, your messages resulted in {num_tokens} "
        f"tokens: the request exceeds the available context size. Please reduce the length of the messages."
    )
    facts = {"n_prompt_tokens": num_tokens, "n_ctx": num_ctx}
    return ApiError(400, message, param="messages", code=code, facts=facts)
