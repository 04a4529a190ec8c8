"""What a failed turn is to a client over HTTP, in whatever dialect. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from broker.messages import Failed
from producers.gateway.errors import ApiError

ERRORS: dict[str, tuple[int, str]] = {
    "prompt_too_long": (400, "context_length_exceeded"),
    "invalid_grammar": (400, "invalid_grammar"),
    "invalid_message": (400, "invalid_message"),
    "invalid_template": (400, "invalid_template"),
    "empty_prompt": (400, "empty_prompt"),
    "answer_too_large": (400, "answer_too_large"),
    "unsupported": (400, "unsupported"),
    "deadline": (408, "deadline"),
    "overloaded": (503, "overloaded"),
    "not_loaded": (503, "model_not_loaded"),
}
"""Of docs/protocol.md's codes. What is the client's own doing is a 400: its library asks again after a 500."""

TOO_LONG = "exceed_context_size_error"
"""llama-server's type of it, by which its clients know it; OpenAI's clients go by the code."""
_TOO_LONG = re.compile(r"(\d+) tokens, and the context holds (\d+)")


def error_of(failed: Failed, fields: Mapping[str, str]) -> ApiError:
    """`fields` are a request's names of a turn's fields that a worker refuses."""
    if failed.code == "prompt_too_long":
        return _too_long(failed)
    status, code = ERRORS.get(failed.code, (500, failed.code))
    kind = "invalid_request_error" if status == 400 else "server_error"
    detail, param = failed.detail, None
    for field, name in fields.items():
        if failed.code == "invalid_grammar" and detail.startswith(field):
            detail, param = name + detail.removeprefix(field), name
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
        return ApiError(400, message, kind=TOO_LONG, param="messages", code=code)
    num_tokens, num_ctx = int(found[1]), int(found[2])
    message = (
        f"This model's maximum context length is {num_ctx} tokens. However, your messages resulted in {num_tokens} "
        f"tokens: the request exceeds the available context size. Please reduce the length of the messages."
    )
    facts = {"n_prompt_tokens": num_tokens, "n_ctx": num_ctx}
    return ApiError(400, message, kind=TOO_LONG, param="messages", code=code, facts=facts)
