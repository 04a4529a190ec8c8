"""One way to connect: for ever, with a cut link noticed, to a server new enough, with the user's own inbox prefix."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import subjects
from broker.errors import ServerTooOld, ServerUnavailable
from broker.nats_client import SafeClient

MINIMUM_SERVER = (2, 12, 0)  # persist_mode and the per-subject fences on work queues
RETRY_SECONDS = 1.0
PING_INTERVAL_SECONDS = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where the server is and who we are there. `user` is also the client's name in subjects."""

    url: str
    user: str = "anonymous"
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    """A file of certificates to trust a tls:// server by; without one, those of the system."""
    wait: float = 0.0
    """Seconds for which a server that is not there yet is tried again."""

    @classmethod
    def parse(cls, url: str, user: str | None = None, ca: str | None = None) -> Address:
        """From nats://user:password@host:port; the credentials are taken out of the URL, so that none is logged."""
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        host = parts.netloc.rpartition("@")[2]
        name = unquote(parts.username) if parts.username else user or "anonymous"
        password = unquote(parts.password) if parts.password else None
        return cls(urlunsplit(parts._replace(netloc=host)), subjects.token(name, "user"), password, ca)


def _tls(address: Address) -> ssl.SSLContext | None:
    if not address.url.startswith("tls://"):
        return None
    try:
        return ssl.create_default_context(cafile=address.ca)
    except OSError as error:
        raise ServerUnavailable(address.url, f"the CA file {address.ca}: {error.strerror or error}") from None


async def connect(address: Address, *, name: str, timeout: float = 5.0) -> NatsConnection:
    """A connection that reconnects for ever; raises ServerUnavailable when the first attempt fails, ServerTooOld.

    For the address's `wait` seconds the first attempt is made again and again.
    """
    until = time.monotonic() + address.wait
    while True:
        try:
            return await _connect(address, name=name, timeout=timeout)
        except ServerUnavailable as error:
            if time.monotonic() >= until:
                raise
            log.info("waiting for the server error=%s", error)
            await asyncio.sleep(RETRY_SECONDS)


async def _connect(address: Address, *, name: str, timeout: float) -> NatsConnection:
    nc = SafeClient()
    refused = asyncio.Event()
    untrusted: list[str] = []

    async def on_error(error: Exception) -> None:
        log.debug("nats error=%s", error)
        if "authorization" in str(error).lower():
            refused.set()
        if isinstance(error, ssl.SSLError):
            untrusted.append(getattr(error, "verify_message", "") or str(error))
            refused.set()

    async def on_disconnect() -> None:
        if nc.is_reconnecting:  # and not our own close
            log.warning("nats disconnected url=%s", address.url)

    async def on_reconnect() -> None:
        log.warning("nats reconnected url=%s", address.url)

    connecting = asyncio.ensure_future(
        nc.connect(
            servers=[address.url],
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
        )
    )
    refusing = asyncio.ensure_future(refused.wait())
    try:
        await asyncio.wait({connecting, refusing}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            raise TimeoutError("no answer in time")
        await connecting
    except (nats.errors.Error, OSError) as error:
        connecting.cancel()
        await nc.close()
        # The server says why and hangs up, and nats-py raises whichever of the two it meets first.
        if untrusted:
            raise ServerUnavailable(address.url, f"its certificate is not trusted: {untrusted[-1]}") from None
        reason = "wrong user or password" if refused.is_set() or "authorization" in str(error).lower() else str(error)
        raise ServerUnavailable(address.url, reason or type(error).__name__) from None
    finally:
        refusing.cancel()
    found = nc.connected_server_version
    if (found.major, found.minor, found.patch) < MINIMUM_SERVER:
        await nc.close()
        raise ServerTooOld(f"{found.major}.{found.minor}.{found.patch}", ".".join(map(str, MINIMUM_SERVER)))
    return nc


async def close(nc: NatsConnection) -> None:
    """Closes a connection, also one that has lost its server."""
    # With words left to send and no transport, CPython's writelines stumbles over its own closing.
    with contextlib.suppress(TypeError, nats.errors.Error):
        await nc.close()
