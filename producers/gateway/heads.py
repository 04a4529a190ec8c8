"""What a request's headers say."""

from __future__ import annotations

import time
from collections.abc import Mapping

from broker.messages import Priority
from producers.gateway.errors import ApiError

MAX_DEADLINE_SECONDS = 7 * 24 * 3600


def priority_of(headers: Mapping[str, str]) -> Priority:
    match headers.get("turnpike-priority"):
        case None | "interactive":
            return "interactive"
        case "batch":
            return "batch"
    raise ApiError(400, "Turnpike-Priority: is interactive or batch", param="Turnpike-Priority")


def deadline_of(headers: Mapping[str, str]) -> float | None:
    """Seconds since the epoch."""
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
