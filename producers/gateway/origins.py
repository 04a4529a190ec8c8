"""Whose browser pages may ask. A page of any website runs in the browser of who looks at it, and reaches what that
machine reaches: who needs no key must not become any website's model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from producers.gateway.host_names import is_known, name_of

LOOPBACK = r"https?://(localhost|[\w-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?"
APPLICATIONS = r"(app|file|tauri|vscode-webview|vscode-file|capacitor|chrome-extension|moz-extension)://.*"
"""Programs of the machine's own; no website has such an origin."""
OWN = re.compile(f"{LOOPBACK}|{APPLICATIONS}")
EXPOSED = (
    "Turnpike-Turn",
    "Turnpike-Conversation",
    "Turnpike-Model",
    "Turnpike-Route",
    "Turnpike-Ignored",
    "Retry-After",
    "x-should-retry",
    *("request-id", "x-request-id", "WWW-Authenticate"),
)
METHODS = ("GET", "POST", "DELETE", "OPTIONS")
MAY_NOT = "pages of that origin may not ask: see --origins"


@dataclass(frozen=True)
class Origins:
    """Which ones may. Without any that are named: pages of this machine; with keys all, as no page knows a key.

    `hosts` are names by which a gateway that wants no key may be asked for, beside its machine's own."""

    named: Sequence[str] = ()
    are_keys_wanted: bool = False
    hosts: Sequence[str] = ()

    @property
    def are_all(self) -> bool:
        """Whether any page may ask."""
        return "*" in self.named or (self.are_keys_wanted and not self.named)

    def may(self, origin: str, host: str) -> bool:
        """Whether a page of that origin may, where the gateway was asked for by that name: its own page may."""
        if self.are_all or origin in self.named:
            return True
        return bool(OWN.fullmatch(origin)) or (origin.partition("://")[2] == host and self.knows(host))

    def knows(self, host: str) -> bool:
        """Whether the gateway may be asked for by that name."""
        if self.are_keys_wanted or self.are_all:
            return True
        return is_known(host, (*self.hosts, *(name_of(one.partition("://")[2]) for one in self.named)))


class Doorkeeper:
    """In front of the gateway: answers browsers that ask whether a page may, and lets no page in that may not."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins
        self._cors = CORSMiddleware(
            app,
            # Where all may, each is told its own name, as llama-server does; no page may send another's cookies.
            allow_origins=() if origins.are_all else origins.named,
            allow_origin_regex=".*" if origins.are_all else OWN.pattern,
            allow_methods=METHODS,
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=EXPOSED,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host", "")
        if not self._origins.knows(host):
            why = f"this gateway is not called {host[:100]!r}: ask for it by its address, or start it with --hosts NAME"
            await _refused(why)(scope, receive, send)
        elif origin is None:
            await self._app(scope, receive, send)
        elif self._origins.may(origin, host):
            await self._cors(scope, receive, send)
        elif scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            # Answered as llama-server does: with nothing that allows anything.
            await PlainTextResponse(MAY_NOT, 200, {"Vary": "Origin"})(scope, receive, send)
        else:
            await _refused(MAY_NOT)(scope, receive, send)


def _refused(why: str) -> PlainTextResponse:
    return PlainTextResponse(why + "\n", 403)
