"""What a request's head says, and its body as bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from broker import priorities
from broker.errors import InvalidName
from broker.priorities import DEFAULT_PRIORITY, PRIORITIES, Priority
from producers.gateway.errors import ApiError
from producers.gateway.reading import ClientGone, Receive

MAX_BODY_BYTES = 1024 * 1024
"""What the queue takes, its own fields aside."""
BODY_SECONDS = 30.0
MAX_DEADLINE_SECONDS = 7 * 24 * 3600


def priority_of(headers: Mapping[str, str]) -> Priority:
    """The class of the turn; raises ApiError."""
    try:
        return priorities.named(headers.get("turnpike-priority", DEFAULT_PRIORITY))
    except InvalidName:
        known = " or ".join(PRIORITIES)
        raise ApiError(400, f"Turnpike-Priority: is {known}", param="Turnpike-Priority") from None


def deadline_of(headers: Mapping[str, str]) -> float | None:
    """Seconds since the epoch; None where it has all the time. Raises ApiError."""
    if (said := headers.get("turnpike-deadline-seconds")) is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_DEADLINE_SECONDS:
        raise ApiError(
            400, "Turnpike-Deadline-Seconds: must be above 0 and at most a week", param="Turnpike-Deadline-Seconds"
        )
    return time.time() + seconds


def is_said(headers: Mapping[str, str], name: str) -> bool:
    """Of a header that is 1 or left out."""
    return headers.get(name) == "1"


async def body_of(headers: Mapping[str, str], receive: Receive) -> bytes:
    """Bounded in bytes and in time; raises ApiError, ClientGone."""
    too_large = ApiError(413, f"the body has more than {MAX_BODY_BYTES:,} bytes", code="payload_too_large")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 20 or int(length) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(408, f"the body took more than {BODY_SECONDS:.0f} s", code="timeout") from None
