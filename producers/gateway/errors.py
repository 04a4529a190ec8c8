"""What is told instead of an answer, in whatever dialect."""

from __future__ import annotations

from collections.abc import Sequence

from broker.model_status import ModelStatus

MAX_NAMED = 50
"""Models of a refusal."""
UNSUPPORTED = "unsupported_parameter"


class ApiError(Exception):
    """An HTTP status, and what a dialect makes its error object of: `kind` whose fault it is, `param` which field's."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        may_retry: bool = True,
        facts: dict[str, int] | None = None,
    ) -> None:
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.may_retry = may_retry
        """False where asking again is sure to be in vain, though the status alone would not say so."""
        self.facts = facts or {}
        """What some clients look for in the error object beside the API's own fields."""
        super().__init__(message)


def unavailable(error: Exception) -> ApiError:
    """The queue, or the way to it, is not there just now."""
    return ApiError(503, str(error) or type(error).__name__, kind="server_error", code="unavailable", retry_after=2.0)


def no_worker(name: str, choices: Sequence[str] = ()) -> ApiError:
    """The model, or what a policy may choose, has a queue and nobody who takes from it."""
    message = (
        f"no worker for {name[:100]!r} just now: start one, or wait for one with the header Turnpike-Deadline-Seconds"
    )
    return ApiError(503, message + _these(choices), kind="server_error", code="no_worker", retry_after=5.0)


def no_such_model(name: str, choices: Sequence[str] = ()) -> ApiError:
    """There is no queue for it. `choices` are models that there are."""
    message = f"the model {name[:100]!r} is not served here{_these(choices)}"
    return ApiError(404, message, param="model", code="model_not_found")


def no_queue_yet(name: str) -> ApiError:
    """A board has the model, and its queue is about to be made."""
    message = f"the model {name[:100]!r} is new here, and has no queue yet: ask again"
    return ApiError(503, message, kind="server_error", code="unavailable", retry_after=2.0)


def not_loaded(status: ModelStatus) -> ApiError:
    """Boards have the model, and none of them can load it."""
    message = f"the model {status.model!r} {status.words()}"
    retry_after = max(1.0, status.seconds)
    return ApiError(503, message, kind="server_error", code="model_not_loaded", retry_after=retry_after)


def _these(choices: Sequence[str]) -> str:
    """A list that stays short enough to be read."""
    if not choices:
        return ""
    more = f" and {len(choices) - MAX_NAMED} more" if len(choices) > MAX_NAMED else ""
    return f"; these are: {', '.join(choices[:MAX_NAMED])}{more}"


def unsupported(field: str, why: str = "is not supported here") -> ApiError:
    """A field that asks for what cannot be done."""
    return ApiError(400, f"{field} {why}", param=field, code=UNSUPPORTED)


def unable(name: str, what: str) -> ApiError:
    """The model is served by some who cannot do what a turn needs."""
    message = (
        f"{name[:100]!r} cannot do that: a worker of an earlier release serves it, or its model is not made for it"
    )
    return ApiError(400, f"{message} ({what})", code=UNSUPPORTED)


def no_tools(name: str) -> ApiError:
    """The model, or all that a policy may choose, is served by some who take no turns with tools."""
    message = (
        f"{name[:100]!r} takes no tools: its model has no chat template, or a worker of an earlier release serves it"
    )
    return ApiError(400, message, param="tools", code=UNSUPPORTED)
