"""The one way to publish what is to be stored: counted as the server counts, its answer read by code.

A message over the server's `max_payload` is never sent: the server would close the connection of whoever sends it, and
nats-py does not reconnect then. What the server answers is told apart by error codes; its words are for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import nats.errors
from msgspec import Struct

from broker import codec, jetstream
from broker.errors import Duplicate, NoStream, NotAcknowledged, NotStored, PayloadTooLarge
from broker.topology import MAX_PAYLOAD_BYTES
from broker.wire import Wire

TIMEOUT_SECONDS = 5.0

_HEAD = b"NATS/1.0\r\n"


class Stored(Struct, frozen=True):
    """Where a message lies."""

    sequence: int
    is_duplicate: bool = False
    """It was stored before, by an earlier try of ours."""


def num_bytes(payload: bytes, headers: Mapping[str, str] | None = None) -> int:
    """What the server counts against `max_payload`: the headers as they are on the wire too."""
    if headers is None:
        return len(payload)
    lines = sum(len(name.strip().encode()) + len(value.strip().encode()) + 4 for name, value in headers.items())
    return len(_HEAD) + lines + 2 + len(payload)


def limit(nc: Wire) -> int:
    """The most bytes that a message of ours may have, headers included: by the server, and by our streams."""
    return min(nc.max_payload, MAX_PAYLOAD_BYTES)


def with_content_type(headers: Mapping[str, str] | None = None) -> dict[str, str]:
    """The headers of a message of ours."""
    return {**(headers or {}), codec.CONTENT_TYPE: codec.MSGPACK}


def fits(nc: Wire, payload: bytes, headers: Mapping[str, str] | None = None) -> bool:
    """Whether `publish` would send it."""
    return num_bytes(payload, with_content_type(headers)) <= limit(nc)


async def publish(
    nc: Wire,
    subject: str,
    payload: bytes,
    *,
    headers: Mapping[str, str] | None = None,
    message_id: str | None = None,
    is_id_ours: bool = False,
    timeout: float = TIMEOUT_SECONDS,
) -> Stored:
    """Stores a message of ours; comes back when the server has said that it is stored.

    With a `message_id` it is tried a second time where the first was not acknowledged: the server stores it once. A
    duplicate is then our own first try; on a first try it is somebody else's, unless nobody else makes such ids
    (`is_id_ours`). Raises PayloadTooLarge, before anything is sent or by the server's word, NoStream, NotStored with
    the server's code, Duplicate, and NotAcknowledged: it may or may not be stored.
    """
    head = with_content_type(headers)
    if message_id is not None:
        head[jetstream.MESSAGE_ID] = message_id
    size = num_bytes(payload, head)
    if size > limit(nc):
        raise PayloadTooLarge(size, limit(nc))
    answer = None
    is_retry = False
    if message_id is not None:
        answer = await _first_try(nc, subject, payload, head, timeout)
        is_retry = answer is None
    if answer is None:
        answer = await _ask(nc, subject, payload, head, timeout, is_retry=is_retry)
    return _stored(answer, subject, size, limit(nc), is_ours=is_retry or is_id_ours)


async def _first_try(
    nc: Wire, subject: str, payload: bytes, head: dict[str, str], timeout: float
) -> dict[str, Any] | None:
    """The server's answer, None where it sent none in time and a second try may get one."""
    try:
        return await _ask(nc, subject, payload, head, timeout)
    except NotAcknowledged:
        if nc.is_closed:
            raise
        return None


async def _ask(
    nc: Wire, subject: str, payload: bytes, head: dict[str, str], timeout: float, *, is_retry: bool = False
) -> dict[str, Any]:
    try:
        reply = await nc.request(subject, payload, timeout=timeout, headers=head)
    except nats.errors.NoRespondersError:
        if is_retry:  # what became of the first try, the server does not say just now
            raise NotAcknowledged(subject, "no stream answers") from None
        raise NoStream(subject) from None
    except (nats.errors.TimeoutError, TimeoutError) as error:
        raise NotAcknowledged(subject, str(error) or "timeout") from None
    except nats.errors.Error as error:
        if is_retry or nc.is_closed:
            raise NotAcknowledged(subject, str(error) or type(error).__name__) from None
        # It has not left: closed, closing, or too much is waiting for a server that is away.
        raise NotStored(subject, None, str(error) or type(error).__name__) from None
    try:
        answer = json.loads(reply.data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise NotStored(subject, None, f"the server's answer is not understood: {reply.data[:80]!r}")
    return answer


def _stored(answer: dict[str, Any], subject: str, size: int, most: int, *, is_ours: bool) -> Stored:
    # An error carries a sequence too, zero, so it is looked for first.
    match answer:
        case {"error": {"err_code": code}} if code in jetstream.TOO_LARGE:
            raise PayloadTooLarge(size, most)
        case {"error": failure}:
            words = failure if isinstance(failure, dict) else {"description": failure}
            raise NotStored(subject, words.get("err_code"), str(words.get("description")))
        case {"seq": int(sequence), "duplicate": True}:
            if not is_ours:
                raise Duplicate(subject)
            return Stored(sequence, True)
        case {"seq": int(sequence)}:
            return Stored(sequence)
    raise NotStored(subject, None, f"the server's answer is not understood: {answer}")
