"""Whether a process lives and is ready, by HTTP, for Kubernetes' probes: GET /live and GET /ready, 200 or 503.

A probe by `exec` would start a process on the board every few seconds; a file's age wants a shell in the image.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from broker.errors import TurnpikeError

MAX_REQUEST_BYTES = 4096
REQUEST_SECONDS = 5.0

log = logging.getLogger(__name__)

Check = Callable[[], str | None]
"""None when all is well, else what is not, in a few words."""


class Rounds:
    """The loops of a process that have to come round. One that has not for its patience is told by its name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[float, float]] = {}

    def begin(self, name: str, patience: float) -> None:
        """A round begins, or its next part: it has so many seconds until the next time."""
        self._seen[name] = self._clock(), patience

    def end(self, name: str) -> None:
        """There are no more of it."""
        self._seen.pop(name, None)

    def trouble(self) -> str | None:
        """The first loop that is late."""
        now = self._clock()
        for name, (at, patience) in self._seen.items():
            if now - at > patience:
                return f"{name} has not come round for {now - at:.0f} s"
        return None


def either(*checks: Check) -> Check:
    """The first thing that is wrong."""
    return lambda: next((problem for check in checks if (problem := check()) is not None), None)


def told(check: Check) -> str | None:
    """What a check finds; that it fails is a finding too."""
    try:
        return check()
    except Exception as error:
        log.exception("a check of our own failed")
        return f"the check failed: {type(error).__name__}"


@asynccontextmanager
async def serve_health(port: int, *, live: Check, ready: Check, host: str = "0.0.0.0") -> AsyncIterator[int]:
    """Answers while it is entered; yields the port, a free one for port 0. Raises TurnpikeError where it is taken."""
    checks = {"/live": live, "/ready": ready}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                method, path, *_ = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
                check = checks.get(path) if method == "GET" else None
                problem = told(check) if check else "unknown path: /live or /ready"
                status = "200 OK" if problem is None else "503 Service Unavailable" if check else "404 Not Found"
                body = (problem or "ok").encode() + b"\n"
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # nobody who probes; the connection ends
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, host, port, limit=MAX_REQUEST_BYTES)
    except OSError as error:
        raise TurnpikeError(f"--health-port {port}: {error.strerror}") from None
    async with server:
        yield server.sockets[0].getsockname()[1]
