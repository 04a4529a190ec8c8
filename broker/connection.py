"""One way to connect: for ever, with a cut link noticed, to a server new enough, with the user's own inbox prefix."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import subjects
from broker.errors import ConnectionLost, Refused, ServerTooOld, ServerUnavailable, SettingsError
from broker.nats_client import SafeClient
from broker.process import ended_by_a_signal
from broker.retrying import retried
from broker.transport import Transport

MINIMUM_SERVER = (2, 12, 0)  # persist_mode and the per-subject fences on work queues
RETRY_SECONDS = 1.0
SCHEMES = ("nats", "tls", "ws", "wss")
PING_INTERVAL_SECONDS = 5
WATCH_SECONDS = 1.0
FAILING_SECONDS = 30.0
"""A part of a connection that has ended is begun anew by a reconnection, which pings bring about in half of that."""
MAX_REFUSED = 64
"""Subjects that are kept in mind."""
_REFUSED = re.compile(r'permissions violation for publish to "([^"]*)"', re.IGNORECASE)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where the server is and who we are there. `user` is also the client's name in subjects."""

    url: str
    """Of a cluster's servers several, separated by commas."""
    user: str = "anonymous"
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    """A file of certificates to trust a tls:// server by; without one, those of the system."""
    wait: float = 0.0
    """Seconds for which a server that is not there yet is tried again."""
    origin: str = field(default="", compare=False)
    """Who said so, for the error where nobody answers; empty where the user has just typed it."""

    @property
    def urls(self) -> list[str]:
        """Each server's."""
        return self.url.split(",")

    @classmethod
    def parse(cls, url: str, user: str | None = None, ca: str | None = None) -> Address:
        """From nats://user:password@host:port, or several of these for one cluster, separated by commas.

        The credentials are taken out of the URLs, so that none is logged; one of them is enough, as all of a cluster's
        servers know the same users. Raises SettingsError.
        """
        texts = [one.strip() for one in url.split(",") if one.strip()]
        first = next((one.partition("://")[0] for one in texts if "://" in one), "nats")
        servers = [_server(one if "://" in one else f"{first}://{one}") for one in texts]
        schemes = sorted({one.scheme for one in servers})
        users = {(one.username, one.password) for one in servers if one.username}
        shown = ",".join(urlunsplit(one._replace(netloc=_host(one))) for one in servers)
        if len(schemes) != 1:
            raise SettingsError(
                [f"{shown or repr(url)}: " + (f"both {' and '.join(schemes)}" if schemes else "no address")]
            )
        if len(users) > 1:
            raise SettingsError([f"{shown}: servers of one cluster, and different users or passwords for them"])
        name, password = users.pop() if users else (None, None)
        name = unquote(name) if name else user or "anonymous"
        return cls(shown, subjects.token(name, "user"), unquote(password) if password else None, ca)


def _host(parts: SplitResult) -> str:
    """Host and port, without who we are there."""
    return parts.netloc.rpartition("@")[2]


def _server(url: str) -> SplitResult:
    """One server's URL; raises SettingsError where it is none, without showing what may be a password."""
    try:
        parts = urlsplit(url)
        if parts.scheme in SCHEMES and parts.hostname and (parts.port is None or parts.port > 0):
            return parts
    except ValueError:
        pass
    raise SettingsError([f"{url.rpartition('@')[2]!r} is no address of a NATS server: nats://USER:PASSWORD@HOST:PORT"])


def _tls(address: Address) -> ssl.SSLContext | None:
    if not address.url.startswith("tls://"):
        return None
    try:
        return ssl.create_default_context(cafile=address.ca)
    except OSError as error:
        raise Refused(address.url, f"the CA file {address.ca}: {error.strerror or error}") from None


class Connection(SafeClient):
    """A connection that tells what nobody would notice: that it is closed for good, or that a part of it has died.

    The server closes the connection of whoever it does not understand, and nats-py then does not reconnect.
    """

    def __init__(self, *, tls_only: bool) -> None:
        """With `tls_only` nothing is sent before TLS is up."""
        super().__init__()
        self._transport = Transport(tls_only=tls_only)
        self._lost = asyncio.Event()
        self._is_given_up = False
        """Closed by ourselves."""
        self._failing_since: float | None = None
        self._back_at: float | None = float("-inf")
        """When it came back last, by the monotonic clock; None while it is away."""
        self._refused: dict[str, float] = {}
        """Subjects that the server has not let us publish to, in small letters, and when, by the monotonic clock."""
        self._refusal = asyncio.Event()

    async def close(self) -> None:
        """Closes it for good: from now on nothing is wrong with it."""
        self._is_given_up = asyncio.current_task() is not self._reconnection_task
        if not self.is_connected:
            # nats-py would write what is still to be sent, such as an UNSUB, to a connection that is none any more.
            self._pending, self._pending_data_size = [], 0
        await super().close()

    async def on_closed(self) -> None:
        """Takes nats-py's word that it is closed."""
        self._lost.set()

    async def on_disconnected(self) -> None:
        """Takes nats-py's word that the server is away."""
        self._back_at = None

    async def on_reconnected(self) -> None:
        """Takes nats-py's word that it is back."""
        self._back_at = time.monotonic()

    def note_refusal(self, error: Exception) -> None:
        """Takes what nats-py tells of: of a publish that was refused nobody else is told."""
        if (found := _REFUSED.search(str(error))) is None:
            return
        subject = found[1].lower()
        self._refused.pop(subject, None)
        self._refused[subject] = time.monotonic()
        if len(self._refused) > MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refusal.set()

    def refused_at(self, subject: str) -> float:
        """When the server has refused a publish to it last, by the monotonic clock; -inf where it never did."""
        return self._refused.get(subject.lower(), -math.inf)

    async def until_refused(self, subject: str, since: float) -> None:
        """Comes back once a publish to it was refused, after `since`."""
        while self.refused_at(subject) < since:
            self._refusal.clear()
            await self._refusal.wait()

    @property
    def connected_seconds(self) -> float:
        """How long it has been there since it was away last: 0 while it is, infinite where it never was."""
        return time.monotonic() - self._back_at if self.is_connected and self._back_at is not None else 0.0

    def trouble(self) -> str | None:
        """Why nothing more will come of it; None while it works or is being made again."""
        if self._is_given_up:
            return None
        # Also where nats-py, which was reconnecting at the same time, goes on: without any subscription by then.
        if self.is_closed or self._lost.is_set():
            return f"the connection to NATS is closed for good: {self.last_error or 'the server hung up'}"
        part = self._dead_part()
        if part is None:
            self._failing_since = None
            return None
        now = time.monotonic()
        # On its way from one state to another a part may have ended and the next one not begun.
        self._failing_since = now if self._failing_since is None else self._failing_since
        return f"the connection's {part} has ended" if now - self._failing_since > FAILING_SECONDS else None

    def _dead_part(self) -> str | None:
        parts: dict[str, asyncio.Task[None] | None] = {}
        if self.is_connected:
            parts = {"reader": self._reading_task, "writer": self._flusher_task, "pulse": self._ping_interval_task}
        elif self.is_reconnecting:
            parts = {"way back": self._reconnection_task}
        return next((name for name, task in parts.items() if task is None or task.done()), None)


def trouble(nc: NatsConnection) -> str | None:
    """Why nothing more will come of a connection, for /live; None while it works or is being made again."""
    if isinstance(nc, Connection):
        return nc.trouble()
    return "the connection to NATS is closed" if nc.is_closed else None


def connected_seconds(nc: NatsConnection) -> float:
    """As `Connection` tells it."""
    return nc.connected_seconds if isinstance(nc, Connection) else math.inf


def refused_seconds(nc: NatsConnection, subject: str) -> float:
    """How long ago the server has refused a publish to it; infinite where it never did."""
    return time.monotonic() - nc.refused_at(subject) if isinstance(nc, Connection) else math.inf


async def until_refused(nc: NatsConnection, subject: str, since: float) -> None:
    """As `Connection` has it; for ever on another one."""
    if isinstance(nc, Connection):
        await nc.until_refused(subject, since)
    else:
        await asyncio.Event().wait()


def check(nc: NatsConnection) -> None:
    """Raises ConnectionLost once nothing more will come of the connection: for every loop that uses it, at each round.

    nats-py swallows a cancellation that comes while it closes, and a loop that is cancelled once may then go on.
    """
    if (reason := trouble(nc)) is not None:
        raise ConnectionLost(reason)


async def watch(nc: NatsConnection) -> None:
    """Raises ConnectionLost once nothing more will come of the connection. A task of everything that lives by one."""
    while True:
        if isinstance(nc, Connection):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(nc._lost.wait(), WATCH_SECONDS)
        else:
            await asyncio.sleep(WATCH_SECONDS)
        if (reason := trouble(nc)) is not None:
            raise ConnectionLost(reason)
        if nc.is_closed or (isinstance(nc, Connection) and nc._is_given_up):
            return


async def connect(address: Address, *, name: str, timeout: float = 5.0) -> Connection:
    """A connection that reconnects for ever; raises ServerUnavailable when the first attempt fails, ServerTooOld.

    For the address's `wait` seconds the first attempt is made again and again, or until a signal ends the process.
    """
    with ended_by_a_signal():
        return await retried(
            lambda: _connect(address, name=name, timeout=timeout),
            after=ServerUnavailable,
            delay=RETRY_SECONDS,
            patience=address.wait,
            tell=lambda error: log.info("waiting for the server error=%s", error),
        )


@dataclass
class _Troubles:
    """What a connection tells while it is made, and later on."""

    url: str
    origin: str
    seen: Exception | None = None
    """The error of the attempts that says most."""
    distrust: str | None = None
    """Why the server is not taken for what it says it is."""
    is_refused: asyncio.Event = field(default_factory=asyncio.Event)
    """Another attempt would meet the same."""

    async def on_error(self, error: Exception) -> None:
        """Takes what nats-py tells of."""
        _tell(error)
        if self.seen is None or isinstance(error, OSError):
            self.seen = error
        if "authorization" in str(error).lower():
            self.is_refused.set()
        if isinstance(error, ssl.SSLError):
            self.distrust = _distrust(error)
            self.is_refused.set()

    def reason(self, error: Exception) -> ServerUnavailable:
        """Why no connection could be made, when the attempt ended with `error`.

        The server says why and hangs up, and nats-py raises whichever of the two it meets first.
        """
        if self.distrust is not None:
            return Refused(self.url, self.distrust, origin=self.origin)
        if self.is_refused.is_set() or "authorization" in str(error).lower():
            advice = "say who you are with --credentials FILE"
            return Refused(self.url, "wrong user or password", advice, self.origin)
        # Of the attempts; that they took too long is not why.
        cause = self.seen if isinstance(error, TimeoutError) and self.seen is not None else error
        return ServerUnavailable(self.url, _words(cause), self.origin)


async def _connect(address: Address, *, name: str, timeout: float) -> Connection:
    nc = Connection(tls_only=address.url.startswith("tls://"))
    troubles = _Troubles(address.url, address.origin)
    connecting = asyncio.ensure_future(_begin(nc, address, name, troubles))
    refusing = asyncio.ensure_future(troubles.is_refused.wait())
    try:
        await asyncio.wait({connecting, refusing}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            raise TimeoutError("no answer in time")
        await connecting
    except (nats.errors.Error, OSError) as error:
        connecting.cancel()
        await nc.close()
        raise troubles.reason(error) from None
    except asyncio.CancelledError:
        connecting.cancel()
        await nc.close()
        raise
    finally:
        refusing.cancel()
    found = nc.connected_server_version
    if (found.major, found.minor, found.patch) < MINIMUM_SERVER:
        await nc.close()
        raise ServerTooOld(f"{found.major}.{found.minor}.{found.patch}", ".".join(map(str, MINIMUM_SERVER)))
    return nc


async def _begin(nc: Connection, address: Address, name: str, troubles: _Troubles) -> None:
    """Connects as all of our processes do."""

    async def on_error(error: Exception) -> None:
        nc.note_refusal(error)
        await troubles.on_error(error)

    async def on_disconnect() -> None:
        await nc.on_disconnected()
        if nc.is_reconnecting:  # and not our own close
            log.warning("nats disconnected url=%s", address.url)

    async def on_reconnect() -> None:
        await nc.on_reconnected()
        log.warning("nats reconnected url=%s", address.url)

    await nc.connect(
        servers=address.urls,
        name=name,
        user=address.user if address.password is not None else None,
        password=address.password,
        inbox_prefix=subjects.inbox(address.user),
        tls=_tls(address),
        connect_timeout=2,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        ping_interval=PING_INTERVAL_SECONDS,
        max_outstanding_pings=2,
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        closed_cb=nc.on_closed,
    )


def _distrust(error: ssl.SSLError) -> str:
    """Why a server is not taken for what it says it is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; --tls-ca FILE names the CA to trust"
    return str(error)


def _words(error: Exception) -> str:
    """An error of the network without asyncio's words around it."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _tell(error: Exception) -> None:
    """What nats-py would otherwise swallow."""
    match error:
        case nats.errors.SlowConsumerError():
            log.info("messages dropped, they come faster than they are taken subject=%s", error.subject)
        case nats.errors.Error() if "permissions violation for subscription" in str(error).lower():
            log.warning("nats error=%s", error)
        case nats.errors.Error() | OSError() | TimeoutError():
            log.debug("nats error=%s", error)
        case _:
            log.error("a message was not handled", exc_info=error)


async def close(nc: NatsConnection) -> None:
    """Closes a connection, also one that has lost its server."""
    # With words left to send and no transport, CPython's writelines stumbles over its own closing, and drain says so.
    with contextlib.suppress(TypeError, OSError, nats.errors.Error):
        await nc.close()
