"""An HTTP server of ours: uvicorn, stopped by us, that closes the connection of who does not get on with a request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from broker.errors import TurnpikeError

HEAD_SECONDS = 10.0
"""For a request's head to arrive, from the connection on."""
MAX_HEAD_BYTES = 16 * 1024
GRACE_SECONDS = 5


class Patient(H11Protocol):
    """Half a head is not waited for without end: so many connections would be all that there are. Nor do those that
    ask for nothing keep out those that do: where there are too many, the one that was quiet longest is closed."""

    _giving_up: asyncio.TimerHandle | None = None
    _heard_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room for the connection, and begins to wait for a request's head."""
        super().connection_made(transport)
        self._heard_at = self.loop.time()
        self._make_room()
        self._wait()

    def _make_room(self) -> None:
        if self.limit_concurrency is None or len(self.connections) < self.limit_concurrency:
            return
        quiet = [one for one in self.connections if isinstance(one, Patient) and not one._is_answering]
        oldest = min((one for one in quiet if one is not self), key=lambda one: one._heard_at, default=None)
        if oldest is not None:
            self.connections.discard(oldest)
            oldest.transport.close()

    def data_received(self, data: bytes) -> None:
        """Waits no longer once a request is being answered."""
        self._heard_at = self.loop.time()
        super().data_received(data)
        if self._is_answering:
            self._forgive()
        elif self._giving_up is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        self._forgive()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._giving_up = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if not self._is_answering:
            self.transport.close()

    def _forgive(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None


class _Server(uvicorn.Server):
    """Signals are our own process's business."""

    def end(self) -> None:
        """Takes nothing more, and ends when what is under way has ended."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Raises TurnpikeError in one line for what is wrong with the address."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise TurnpikeError(f"{host}:{port}: {error.strerror}") from None
    # Inherited by connections. asyncio sets it where a socket's protocol is named, which create_server leaves out;
    # without it, on a connection that is kept, a stream's second packet waits 40 ms for the first one's ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


async def serve_http(
    app: ASGIApp,
    listening: socket.socket,
    stop: asyncio.Event,
    *,
    also: Sequence[socket.socket] = (),
    max_connections: int,
    grace_seconds: int = GRACE_SECONDS,
) -> None:
    """Serves until `stop`, what comes to `also` too; what is under way then has `grace_seconds`. Raises TurnpikeError
    where it ends before."""
    config = uvicorn.Config(
        app,
        http=Patient,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=max_connections,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=grace_seconds,
    )
    server = _Server(config)
    with contextlib.ExitStack() as closing:
        sockets = [closing.enter_context(one) for one in (listening, *also)]
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets))
            stopping = group.create_task(stop.wait())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                raise TurnpikeError("the HTTP server has ended by itself")
            server.end()
            await serving
