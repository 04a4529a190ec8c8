"""nats-py's client, made safe against what other users of the server may put into subjects, replies and headers.

The server hands on whatever bytes a publisher chose. nats-py 2.16 ends its read loop at the first subject, reply or
status line that is no UTF-8, without a word and without a reconnection, takes a subject with a vertical tab for a
broken protocol, and answers to any subject that a request names: one message of any producer made every worker deaf.

Its pings are in their place here too, so that `flush` means what it says.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol import parser

from broker import jetstream

log = logging.getLogger(__name__)

# A subject ends where the server ends it: nats-py's \s knows more kinds of white space.
_ARGUMENT = rb"([^ \t\r\n]+)[ \t]+"
_REPLY = rb"(" + _ARGUMENT + rb")?"
parser.MSG_RE = re.compile(rb"\AMSG[ \t]+" + _ARGUMENT * 2 + _REPLY + rb"([0-9]+)\r\n")
parser.HMSG_RE = re.compile(rb"\AHMSG[ \t]+" + _ARGUMENT * 2 + _REPLY + rb"([0-9]+)[ \t]+([0-9]+)\r\n")

ANSWERED = (b"_INBOX", f"{jetstream.ACKS}.".encode(), b"_R_.", b"_GR_.")
"""Where an answer may go: to somebody's inbox, to JetStream, or through a server to another account. A request that
names another subject would have us write there with our rights: the end of another client's turn, for one."""

_STATUS_LINE = b"NATS/1.0 "
"""With which headers begin that say how a request went; those of a stored message never do."""
_FIRST_LINE = len(b"NATS/1.0\r\n")
_STATUS = ("Status", "Description")
_USUAL = frozenset(
    (
        "Content-Type",
        "Nats-Last-Sequence",
        "Nats-Msg-Id",
        "Nats-Sequence",
        "Nats-Stream",
        "Nats-Subject",
        "Nats-Time-Stamp",
    )
)
"""Which need not be looked at closely: nearly all names in the messages of an answer."""
_BLANK = " \t\n\r\v\f"


class SafeClient(Client):
    """Hands on every message, with what cannot be decoded replaced, and without a reply that is no inbox."""

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        if not headers:
            return None
        if not headers.startswith(_STATUS_LINE):
            return _own_headers(headers[_FIRST_LINE:])
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)
            return found
        except (ValueError, IndexError) as error:
            log.debug("headers not understood error=%s", error)
            return None

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if reply and not reply.startswith(ANSWERED):
            log.warning("a request that names no inbox is not answered subject=%r reply=%r", subject[:200], reply[:200])
            reply = b""
        await super()._process_msg(sid, _decodable(subject), _decodable(reply), data, headers)

    async def _init_request_sub(self) -> None:
        # As nats-py does, but that an answer goes straight to who waits for it, without a queue and a task.
        self._resp_map = {}
        self._resp_sub_prefix = bytearray(f"{self.new_inbox()}.".encode())
        answers = _Answers(self._resp_map)
        await self.subscribe(f"{self._resp_sub_prefix.decode()}*", future=answers)  # type: ignore[arg-type]

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py writes a ping past what waits to be written: `flush` came back before a subscription had gone out.
        if self.is_connected and self._pending and self._transport is not None:
            waiting, self._pending, self._pending_data_size = self._pending, [], 0
            self._transport.writelines(waiting)
        await super()._send_ping(future)


class _Answers:
    """The future of the subscription that all answers come by: it has the one of each request set."""

    def __init__(self, waiting: Mapping[str, asyncio.Future[Msg]]) -> None:
        self._waiting = waiting
        """By the last token of the subject that the answer goes to."""

    def cancelled(self) -> bool:
        return False

    def set_result(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)


def _own_headers(headers: bytes) -> dict[str, str] | None:
    """A message's, as its publisher wrote them: read as by nats-py, which looks at each character of each name for
    white space, and that was a third of what an answer cost its reader.

    Without those that nats-py would take, of a stored message, for the server's answer.
    """
    found = {}
    for line in headers.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if name not in _USUAL:
            name = name.strip(_BLANK)
            if not (name.isascii() and "".join(name.split()) == name and name not in _STATUS):
                continue
        if colon:
            found[name] = value.strip(_BLANK)
    return found or None


def _decodable(name: bytes) -> bytes:
    return name if name.isascii() else name.decode("utf-8", "backslashreplace").encode()
