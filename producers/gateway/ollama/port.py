"""Ollama's own port: the gateway as it is anywhere, but for what clients look for there first."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

RUNNING = "Ollama is running"


class OllamaPort:
    """The application, with Ollama's greeting in the page's place where a request came to `port`."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_root = scope["type"] == "http" and scope["path"] == "/" and scope["method"] in ("GET", "HEAD")
        if is_root and (scope.get("server") or ("", None))[1] == self._port:
            await PlainTextResponse(RUNNING)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
