"""HTTP responses, and endpoints whose errors are a dialect's."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import nats.errors
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from broker.errors import ServerError
from producers.gateway.errors import ApiError, unavailable
from producers.gateway.reading import ClientGone

ErrorBody = Callable[[ApiError], dict[str, Any]]
Handle = Callable[[HttpRequest, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)


class Endpoint:
    """An ASGI application of a handler: its errors become a dialect's, a client that has gone is no error."""

    def __init__(self, handle: Handle, error_body: ErrorBody) -> None:
        self._handle = handle
        self._error_body = error_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HttpRequest(scope, receive)
        try:
            await self._handle(request, receive, send)
        except ApiError as error:
            await refused(error, self._error_body)(scope, receive, send)
        except (ServerError, nats.errors.Error) as error:
            await refused(unavailable(error), self._error_body)(scope, receive, send)
        except ClientGone:
            log.info("⊘ client gone path=%s", scope["path"])


class Straight:
    """Posts to some paths go straight to their endpoints. Starlette tries its routes one by one, behind layers of its
    own for errors, which endpoints have answered: a tenth of what a turn costs."""

    def __init__(self, endpoints: Mapping[str, ASGIApp], others: ASGIApp) -> None:
        self._endpoints = endpoints
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._endpoints.get(scope["path"]) if scope["method"] == "POST" else None
        await (self._others if found is None else found)(scope, receive, send)


class HeaderRoute(Route):
    """A route of requests that have a header."""

    def __init__(self, header: str, path: str, endpoint: Endpoint, method: str) -> None:
        super().__init__(path, endpoint, methods=[method])
        self._header = header.lower().encode()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """None where the header is missing."""
        if scope["type"] != "http" or all(name != self._header for name, _ in scope["headers"]):
            return Match.NONE, {}
        return super().matches(scope)


def json_response(value: Any, headers: list[tuple[bytes, bytes]] | None = None, status: int = 200) -> Response:
    """The value as JSON."""
    response = Response(msgspec.json.encode(value), status, media_type="application/json")
    response.raw_headers.extend(headers or [])
    return response


def refused(error: ApiError, error_body: ErrorBody) -> Response:
    """What is told instead of an answer, and whether and when to ask again."""
    headers = (
        [(b"retry-after", str(max(1, round(error.retry_after))).encode())] if error.retry_after is not None else []
    )
    if not error.may_retry:
        headers.append((b"x-should-retry", b"false"))  # OpenAI's libraries ask again after a 408 or 500 else
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return json_response(error_body(error), headers, error.status)


def not_found(error_body_of: Callable[[str], ErrorBody]) -> Callable[[HttpRequest, Exception], Awaitable[Response]]:
    """What is told of a path, or a method of one, that there is not, in the words of the dialect that is nearest."""

    async def tell(request: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = error.status_code
        headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
        what = f"{request.method} {request.url.path[:100]}"
        if status == 405:
            missing = ApiError(405, f"{what} is not allowed", code="method_not_supported")
        else:
            missing = ApiError(status, f"there is no {what}", code="not_found")
        return json_response(error_body_of(request.url.path)(missing), headers, status)

    return tell
