"""Whether a process lives and is ready, by HTTP, for Kubernetes' probes: GET /live and GET /ready, 200 or 503. It
may have more to tell at other paths.

A probe by `exec` would start a process on the board every few seconds; a file's age wants a shell in the image.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from broker.errors import TurnpikeError

MAX_REQUEST_BYTES = 4096
REQUEST_SECONDS = 5.0
PLAIN = "text/plain; charset=utf-8"

log = logging.getLogger(__name__)

Check = Callable[[], str | None]
"""None when all is well, else what is not, in a few words."""


@dataclass(frozen=True)
class Report:
    """What a path of a process's own tells."""

    is_well: bool
    """Answered with 200, else with 503."""
    body: bytes
    media_type: str = "application/json"


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


def _checked(check: Check) -> Callable[[], Report]:
    def report() -> Report:
        problem = told(check)
        return Report(problem is None, f"{problem or 'ok'}\n".encode(), PLAIN)

    return report


@asynccontextmanager
async def serve_health(
    port: int,
    *,
    live: Check,
    ready: Check,
    reports: Mapping[str, Callable[[], Report]] | None = None,
    host: str = "0.0.0.0",
) -> AsyncIterator[int]:
    """Answers while it is entered; yields the port, a free one for port 0. `reports` are asked at their paths. Raises
    TurnpikeError where the port is taken."""
    paths = {"/live": _checked(live), "/ready": _checked(ready), **(reports or {})}
    unknown = f"unknown path: {', '.join(list(paths)[:-1])} or {list(paths)[-1]}\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                method, path, *_ = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
                report = paths.get(path) if method == "GET" else None
                found = report() if report is not None else Report(False, unknown, PLAIN)
                status = "200 OK" if found.is_well else "503 Service Unavailable" if report else "404 Not Found"
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {found.media_type}\r\n"
                    f"Content-Length: {len(found.body)}\r\nConnection: close\r\n\r\n".encode()
                    + found.body
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
