"""An HTTP server of ours: uvicorn, stopped by us, that closes the connection of who does not get on with a request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any, cast

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from broker.errors import TurnpikeError

HEAD_SECONDS = 10.0
"""For a request's head to arrive, from the connection on."""
MAX_HEAD_BYTES = 16 * 1024
"""Of a head that is not whole, and of whatever else is no body."""
MAX_PIPELINED = 16
"""Requests of one connection that wait for others to be answered."""
MAX_JOINED_BYTES = 64 * 1024
GRACE_SECONDS = 5


class _Joining:
    """A connection's transport, by which all that is written in one round of the event loop goes out as one: a head and
    the first piece behind it. Each write wakes its reader, who then has half of it, and the processor that wrote."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []
        self._num_bytes = 0

    def write(self, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)
        self._num_bytes += len(data)
        if self._num_bytes > MAX_JOINED_BYTES:  # so that whoever writes hears that it is to wait
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            joined = b"".join(self._waiting)
            self._waiting, self._num_bytes = [], 0
            self._transport.write(joined)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Patient(HttpToolsProtocol):
    """Half a head is not waited for without end: so many connections would be all that there are. Nor do those that
    ask for nothing keep out those that do: where there are too many, the one that was quiet longest is closed."""

    _giving_up: asyncio.TimerHandle | None = None
    _heard_at = 0.0
    _answering: RequestResponseCycle | None = None
    """Of the requests that came one behind the other, the one whose turn it is."""
    _num_idle_bytes = 0
    """That came since a head ended, or a part of a body came."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room for the connection, and begins to wait for a request's head."""
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, _Joining(transport, self.loop))
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
        if self.transport.is_closing():  # what was refused is not read on
            return
        self._heard_at = self.loop.time()
        self._num_idle_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._num_idle_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too long.")
        if self._is_answering:
            self._forgive()
        elif self._giving_up is None:
            self._wait()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            # Java's client offers HTTP/2 with each request. It is not taken up, but llhttp reads no body behind one:
            # the request is read again without the offer.
            head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
            head += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            self._feed(b"\r\n".join([*head, b"", b""]) + data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
        """Begins to answer, or has the request wait until those before it are answered."""
        self._num_idle_bytes = 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("this is no proxy")
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request has come, unless it is to be read again."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Takes a part of a body."""
        self._num_idle_bytes = 0
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting, and tells whoever answers that nobody reads it: uvicorn tells the last request's alone."""
        self._forgive()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    @property
    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

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
        proxy_headers=False,
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
