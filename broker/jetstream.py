"""JetStream as its server speaks it: subjects of its API, requests, answers, headers and error codes, all made here.

Requests and answers are the server's own JSON (docs.nats.io, JetStream wire API), as the options that the promises
rest on are newer than nats-py's types. What is to be stored is published by `broker.publishing`.
"""

from __future__ import annotations

import contextlib
import json
from datetime import datetime
from typing import Any

import msgspec
import nats.errors
from msgspec import Struct, field

from broker.errors import NoRoom, NotReady, ServerError
from broker.wire import Messages, Wire

NANOSECONDS = 1_000_000_000
"""Of a second: the server's unit of time."""
API_SECONDS = 10.0
GET_SECONDS = 5.0
BATCH_MESSAGES = 256
"""Of one batched direct get."""

# --- Error codes: nats-server, server/errors.json --------------------------------------------------------------------

WRONG_LAST_SEQUENCE = (10071, 10164)
NOT_TAKEN = 10077
"""The stream is full, or has one of this subject and takes no second."""
TOO_LARGE = (10054, 10097)
NO_TTL = 10166
"""The stream was made without `allow_msg_ttl`."""
NO_ROOM = (10002, 10023, 10028, 10047)
"""What streams may hold together is more than the account, the server or its disk has: insufficient resources."""
NO_RESPONDERS = 503
"""The status where nobody takes a request: no stream of that name answers."""
NOT_FOUND = 404
"""Of the API's answers the `code`, and of a direct get's the status."""
END_OF_BATCH = 204

# --- Headers ---------------------------------------------------------------------------------------------------------

MESSAGE_ID = "Nats-Msg-Id"
"""By which the server knows a message that it has stored lately."""
LAST_SUBJECT_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
"""A fence: the message is stored if this is still the sequence of its subject's last one."""
MESSAGE_TTL = "Nats-TTL"
"""After so many whole seconds the server forgets the message, where its stream allows that."""
KV_OPERATION = "KV-Operation"
"""Of a bucket's message that is no value but takes one back (ADR-8)."""
KV_DELETED = "DEL"
STREAM = "Nats-Stream"
SEQUENCE = "Nats-Sequence"
SUBJECT = "Nats-Subject"
STORED_AT = "Nats-Time-Stamp"

# --- Subjects --------------------------------------------------------------------------------------------------------

API = "$JS.API"
ACKS = "$JS.ACK"
ACCOUNT_INFO = "INFO"
STREAM_NAMES = "STREAM.NAMES"
STREAM_LIST = "STREAM.LIST"
STREAM_INFO = "STREAM.INFO"
STREAM_CREATE = "STREAM.CREATE"
STREAM_UPDATE = "STREAM.UPDATE"
MESSAGE_DELETE = "STREAM.MSG.DELETE"
CONSUMER_INFO = "CONSUMER.INFO"
CONSUMER_CREATE = "CONSUMER.CREATE"
NEXT_MESSAGE = "CONSUMER.MSG.NEXT"
DIRECT_GET = "DIRECT.GET"


def api_subject(verb: str, *names: str) -> str:
    """Where the server takes such a request; with wildcards for names, what a user may be permitted."""
    return ".".join((API, verb, *names))


def acks(*names: str) -> str:
    """Where the deliveries of a stream, or of one of its consumers, are settled: a filter."""
    return ".".join((ACKS, *names, ">"))


# --- Settling a delivery ---------------------------------------------------------------------------------------------

ACK = b"+ACK"
NAK = b"-NAK"
IN_PROGRESS = b"+WPI"


def nak_after(seconds: float) -> bytes:
    """Has a message delivered again after a while."""
    return NAK + b" " + json.dumps({"delay": int(seconds * NANOSECONDS)}).encode()


def pull_request(expires: float) -> bytes:
    """For one message, within `expires` seconds; for 0 one that is there now."""
    if expires:
        return json.dumps({"batch": 1, "expires": int(expires * NANOSECONDS)}).encode()
    return json.dumps({"batch": 1, "no_wait": True}).encode()


# --- The API ---------------------------------------------------------------------------------------------------------


class StreamState(Struct, frozen=True):
    """What a stream holds."""

    num_messages: int = field(name="messages")
    num_bytes: int = field(name="bytes")
    first_sequence: int = field(name="first_seq")
    last_sequence: int = field(name="last_seq")
    num_consumers: int = field(name="consumer_count")
    first_timestamp: str = field(name="first_ts", default="")

    @property
    def first_stored_at(self) -> float | None:
        """Of the first message, in whole seconds since the epoch; None of an empty stream."""
        if not self.num_messages:
            return None
        return datetime.fromisoformat(self.first_timestamp[:19] + "+00:00").timestamp()


class StreamInfo(Struct, frozen=True):
    """A stream: how it is configured, in the server's own words, and what it holds."""

    config: dict[str, Any]
    state: StreamState

    @property
    def name(self) -> str:
        """The stream's."""
        return str(self.config["name"])

    @property
    def max_bytes(self) -> int | None:
        """What it may hold; None without a bound."""
        most = self.config.get("max_bytes", -1)
        return most if most > 0 else None


class Progress(Struct, frozen=True):
    """How far a consumer has come."""

    stream_sequence: int = field(name="stream_seq")


class ConsumerInfo(Struct, frozen=True):
    """A consumer: how it is configured, in the server's own words, and how far it has come."""

    config: dict[str, Any]
    delivered: Progress
    ack_floor: Progress
    """Up to where all is settled."""
    num_pending: int
    """Messages that it has not delivered yet."""
    num_ack_pending: int
    """Delivered and not settled."""
    num_redelivered: int
    num_waiting: int
    """Pulls that are open."""
    told_at_text: str = field(name="ts", default="")

    @property
    def told_at(self) -> float | None:
        """When the server said so, in seconds since the epoch by its clock; None where it does not tell."""
        return _instant(self.told_at_text) if self.told_at_text else None

    @property
    def ack_wait_seconds(self) -> float:
        """After which a delivery that nobody settles is made again."""
        return float(self.config["ack_wait"] / NANOSECONDS)


def _instant(text: str) -> float:
    """Of the server's words for one, in UTC: seconds since the epoch."""
    # Nanoseconds, of which Python's parser takes six digits.
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6] or 0}+00:00").timestamp()


class AccountLimits(Struct, frozen=True):
    """What the server gives to an account."""

    max_storage: int = -1


class AccountInfo(Struct, frozen=True):
    """What the account's streams take of the disk."""

    num_bytes: int | None = field(name="storage", default=None)
    limits: AccountLimits = AccountLimits()

    @property
    def max_bytes(self) -> int | None:
        """None without a bound."""
        return self.limits.max_storage if self.limits.max_storage > 0 else None


async def api(
    nc: Wire, subject: str, body: dict[str, Any] | None = None, timeout: float | None = None
) -> dict[str, Any] | None:
    """The server's answer to a request, `subject` without the API's prefix; None for "not found". Raises ServerError
    with the server's words, also where it does not answer within `timeout`, API_SECONDS without one."""
    seconds = API_SECONDS if timeout is None else timeout
    try:
        reply = await nc.request(f"{API}.{subject}", json.dumps(body).encode() if body else b"", timeout=seconds)
    except Exception as error:
        raise ServerError(f"{subject}: {str(error) or type(error).__name__}") from error
    answer: dict[str, Any] = json.loads(reply.data)
    if failure := answer.get("error"):
        if failure.get("code") == NOT_FOUND:
            return None
        if failure.get("err_code") in NO_ROOM:
            raise NoRoom(subject, str(failure.get("description")))
        raise ServerError(f"{subject}: {failure.get('description')} (code {failure.get('err_code')})")
    return answer


def _read[T: Struct](subject: str, answer: dict[str, Any] | None, kind: type[T]) -> T | None:
    try:
        return None if answer is None else msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise ServerError(f"{subject}: the answer is not understood: {error}") from None


async def account(nc: Wire) -> AccountInfo | None:
    """What the account's streams take; None where it has no JetStream. Raises ServerError, as all of these."""
    return _read(ACCOUNT_INFO, await api(nc, ACCOUNT_INFO), AccountInfo)


async def stream(nc: Wire, name: str) -> StreamInfo | None:
    """The stream of that name, or None."""
    subject = f"{STREAM_INFO}.{name}"
    return _read(subject, await api(nc, subject), StreamInfo)


async def streams(nc: Wire, taking: str) -> list[StreamInfo]:
    """All streams that take subjects of a filter."""
    found: list[StreamInfo] = []
    while True:
        page = await api(nc, STREAM_LIST, {"subject": taking, "offset": len(found)}) or {}
        infos = [_read(STREAM_LIST, one, StreamInfo) for one in page.get("streams") or []]
        found += [one for one in infos if one is not None]
        if not infos or len(found) >= page.get("total", 0):
            return found


async def stream_names(nc: Wire, taking: str | None = None, *, timeout: float | None = None) -> list[str]:
    """The names of all streams, or of those that take subjects of a filter."""
    found: list[str] = []
    wanted = {} if taking is None else {"subject": taking}
    while True:
        page = await api(nc, STREAM_NAMES, wanted | {"offset": len(found)}, timeout) or {}
        names = page.get("streams") or []
        found += names
        if not names or len(found) >= page.get("total", 0):
            return found


async def subjects_in(nc: Wire, stream: str, matching: str) -> list[str]:
    """The subjects of a stream's messages that match a filter, each once."""
    found: dict[str, int] = {}
    subject = f"{STREAM_INFO}.{stream}"
    while True:
        page = await api(nc, subject, {"subjects_filter": matching, "offset": len(found)}) or {}
        counted = page.get("state", {}).get("subjects") or {}
        found |= counted
        if not counted or len(found) >= page.get("total", 0):
            return list(found)


async def create_stream(nc: Wire, config: dict[str, Any]) -> None:
    """Makes a stream, configured in the server's own words."""
    await api(nc, f"{STREAM_CREATE}.{config['name']}", config)


async def update_stream(nc: Wire, config: dict[str, Any]) -> None:
    """Changes a stream to that configuration, which has to be all of it."""
    await api(nc, f"{STREAM_UPDATE}.{config['name']}", config)


async def consumer(nc: Wire, stream: str, name: str) -> ConsumerInfo | None:
    """A stream's consumer of that name, or None."""
    subject = f"{CONSUMER_INFO}.{stream}.{name}"
    return _read(subject, await api(nc, subject), ConsumerInfo)


async def create_consumer(nc: Wire, stream: str, config: dict[str, Any]) -> None:
    """Makes a consumer with one filter, or changes it."""
    subject = f"{CONSUMER_CREATE}.{stream}.{config['name']}.{config['filter_subject']}"
    await api(nc, subject, {"stream_name": stream, "config": config})


async def delete(nc: Wire, stream: str, sequence: int, *, overwrite: bool = True) -> bool:
    """Takes a message out of a stream; False where it is not there. `overwrite` its bytes on the disk too."""
    body = {"seq": sequence} | ({} if overwrite else {"no_erase": True})
    return await api(nc, f"{MESSAGE_DELETE}.{stream}", body) is not None


# --- Direct gets -----------------------------------------------------------------------------------------------------


class StoredMessage(Struct, frozen=True):
    """A message as a stream holds it."""

    payload: bytes
    sequence: int
    headers: dict[str, str]

    @property
    def subject(self) -> str:
        """Its own, not that of the answer which brought it."""
        return self.headers[SUBJECT]

    @property
    def stored_at(self) -> float:
        """Seconds since the epoch, by the server's clock."""
        return _instant(self.headers[STORED_AT])


async def last_stored(nc: Wire, stream: str, subject: str) -> StoredMessage | None:
    """The last message of one subject by direct get, or None. Raises ServerError when the stream does not answer."""
    return await _direct_get(nc, f"{stream}.{subject}", b"", subject)


async def stored_at(nc: Wire, stream: str, sequence: int) -> StoredMessage | None:
    """The message of that sequence, or None. Not a producer's right; raises ServerError."""
    return await _direct_get(nc, stream, json.dumps({"seq": sequence}).encode(), f"{stream} {sequence}")


async def _direct_get(nc: Wire, where: str, request: bytes, what: str) -> StoredMessage | None:
    try:
        reply = await nc.request(f"{API}.{DIRECT_GET}.{where}", request, timeout=GET_SECONDS)
    except (nats.errors.Error, TimeoutError) as error:
        raise ServerError(f"direct get of {what}: {str(error) or type(error).__name__}") from error
    headers = dict(reply.headers or {})
    # First: a message's own headers may hold a status, and the server's come behind them.
    if SEQUENCE in headers:
        return StoredMessage(reply.data, int(headers[SEQUENCE]), headers)
    if headers.get("Status") == str(NOT_FOUND):
        return None
    raise ServerError(f"direct get of {what}: {headers.get('Status')} {headers.get('Description')}")


async def read_stored(
    nc: Wire, stream: str, subject: str, limit: int | None = None, first: int = 1
) -> list[StoredMessage]:
    """All messages of a subject or filter, in order, from the sequence `first` on, up to `limit`. Not a producer's
    right; raises ServerError, NotReady where there is no such stream."""
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    found: list[StoredMessage] = []
    try:
        while limit is None or len(found) < limit:
            size = BATCH_MESSAGES if limit is None else min(BATCH_MESSAGES, limit - len(found))
            request = {"seq": found[-1].sequence + 1 if found else first, "next_by_subj": subject, "batch": size}
            await nc.publish(f"{API}.{DIRECT_GET}.{stream}", json.dumps(request).encode(), reply=inbox)
            num_before = len(found)
            while (status := await _next_of_batch(subscription, found, stream)) is None:
                pass
            if status == NOT_FOUND or len(found) - num_before < size:
                break
        return found
    except (nats.errors.Error, TimeoutError) as error:
        raise ServerError(f"direct get of {subject}: {str(error) or type(error).__name__}") from error
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def _next_of_batch(subscription: Messages, found: list[StoredMessage], stream: str) -> int | None:
    """Appends the next message of a batched direct get; the status that ends the batch, or None."""
    message = await subscription.next_msg(timeout=GET_SECONDS)
    headers = dict(message.headers or {})
    if SEQUENCE in headers:
        found.append(StoredMessage(message.data, int(headers[SEQUENCE]), headers))
        return None
    status = headers.get("Status")
    for known in (NOT_FOUND, END_OF_BATCH):
        if status == str(known):
            return known
    if status == str(NO_RESPONDERS):
        raise NotReady(f"stream {stream}")
    raise ServerError(f"direct get: {status} {headers.get('Description')}")
