"""nats-py's way over TCP, with what asyncio does not tell its streams when one is upgraded to TLS."""

from __future__ import annotations

import ssl
from typing import Any

from nats.aio.transport import TcpTransport


class NotSecured(ssl.SSLError):
    """A server that was to speak TLS does not offer it."""

    def __init__(self) -> None:
        super().__init__("it does not speak TLS, and tls:// was asked for")

    def __str__(self) -> str:
        return str(self.args[0])


class Transport(TcpTransport):
    """Put into a client before it connects. With `tls_only` not a byte is sent before TLS is up, the password least."""

    def __init__(self, *, tls_only: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tls_only = tls_only
        self._is_secured = False

    async def connect(self, uri: Any, buffer_size: int, connect_timeout: int) -> None:
        """A connection over TCP, not secured yet."""
        self._is_secured = False
        await super().connect(uri, buffer_size, connect_timeout)

    def write(self, payload: bytes) -> Any:
        """Sends bytes; raises NotSecured before TLS is up, where that is asked for."""
        self._check()
        return super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: Any) -> Any:
        """As `write`. To a connection that is lost nothing is written: asyncio would stumble over its own closing."""
        self._check()
        if self._io_writer is None or self._io_writer.transport.is_closing():
            return None
        return super().writelines(payload)  # type: ignore[no-untyped-call]

    def _check(self) -> None:
        if self._tls_only and not self._is_secured:
            raise NotSecured

    def __bool__(self) -> bool:
        """nats-py makes one of its own in place of one that is false."""
        return True

    async def connect_tls(self, uri: Any, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int) -> None:
        """Has the connection secured; from now on bytes may be sent."""
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        assert self._io_writer is not None
        self._is_secured = True
        # A stream's protocol learns from `connection_made` that it is TLS, which has no half-closed connections;
        # `loop.start_tls` does not call that, and then asyncio warns at the end of each connection.
        self._io_writer.transport.get_protocol()._over_ssl = True  # type: ignore[attr-defined]
