"""Who may do what on the server: the rights of each role, as subjects, in the server's configuration syntax.

A producer reads its own replies and ends by direct get, where the subject is part of the API's subject and so can be
permitted, and has no right to any consumer, whose filter the server would take from the request's body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from broker import subjects
from broker.jetstream import (
    ACCOUNT_INFO,
    CONSUMER_INFO,
    DIRECT_GET,
    MESSAGE_DELETE,
    NEXT_MESSAGE,
    STREAM_INFO,
    STREAM_LIST,
    STREAM_NAMES,
    acks,
    api_subject,
)
from broker.priorities import LANES
from broker.subjects import ALL_KEPT, ENDS, KV_ANSWERS, KV_PLACEMENT, REPLIES, TELEMETRY, WRITER

_DISCOVERY = ("$SRV.PING.>", "$SRV.INFO.>", "$SRV.STATS.>", "$SRV.PING", "$SRV.INFO", "$SRV.STATS")
_PLACEMENT = api_subject(DIRECT_GET, KV_PLACEMENT)
"""To read which models are where."""


@dataclass(frozen=True)
class Rights:
    """What a user may publish, and what it may subscribe to besides its own inbox."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    may_answer: bool = False
    """Answers to requests go to inboxes that this user could not otherwise write to."""


def _worker(user: str) -> Rights:
    return Rights(
        publish=(
            "reply.>",
            "end.>",
            "dead.>",
            "queue.>",
            "telemetry.>",
            "kv.>",
            "$KV.HELD.>",
            acks(),
            api_subject(NEXT_MESSAGE, ">"),
            api_subject(CONSUMER_INFO, ">"),
            api_subject(STREAM_INFO, ">"),
            api_subject(MESSAGE_DELETE, ">"),
            api_subject(DIRECT_GET, ">"),
            *_DISCOVERY,
        ),
        subscribe=("cancel.>", "replay.>", "queue.>", "kv.>", "node.*", "$SRV.>"),
        may_answer=True,
    )


def _board(user: str) -> Rights:
    """A worker, as it starts workers, that also says what it has and claims what it loads, by what waits in all queues;
    orders are operators'."""
    worker = _worker(user)
    return Rights(
        publish=(
            *worker.publish,
            "$KV.PLACEMENT.board.*",
            "$KV.PLACEMENT.claim.*.*",
            api_subject(STREAM_LIST),
        ),
        subscribe=(*worker.subscribe, "placement.>", "queued.>"),
        may_answer=worker.may_answer,
    )


def _producer(user: str) -> Rights:
    return Rights(
        publish=(
            # By name: what is queued under another one no consumer takes, and it would stay for ever.
            *(f"turn.*.{lane}.{user}.*" for lane in LANES),
            f"cancel.{user}.>",
            f"replay.{user}.*",
            f"run.{user}",
            api_subject(DIRECT_GET, REPLIES, f"reply.{user}.*"),
            api_subject(DIRECT_GET, ENDS, f"end.{user}.*"),
            _PLACEMENT,
            api_subject(STREAM_NAMES),
            api_subject(CONSUMER_INFO, "*", "*"),
            *_DISCOVERY,
        ),
        subscribe=(subjects.live_of(user), "queue.>"),
    )


def _gateway(user: str) -> Rights:
    """A producer for all clients; which one a request is of, its API key says."""
    return Rights(
        publish=(
            "turn.>",
            "cancel.>",
            "replay.>",
            "telemetry.>",
            ALL_KEPT,
            api_subject(DIRECT_GET, REPLIES, "reply.>"),
            api_subject(DIRECT_GET, ENDS, "end.>"),
            api_subject(DIRECT_GET, "*", "turn.>"),
            api_subject(DIRECT_GET, KV_ANSWERS, ALL_KEPT),
            _PLACEMENT,
            api_subject(STREAM_NAMES),
            api_subject(CONSUMER_INFO, "*", "*"),
            *_DISCOVERY,
        ),
        subscribe=("live.>", "queue.>"),
    )


def _reaper(user: str) -> Rights:
    """Ends queued turns that nobody takes; it has no business with anybody's answers, and publishes no turn."""
    return Rights(
        publish=(
            "end.>",
            api_subject(STREAM_LIST),
            api_subject(STREAM_INFO, "*"),
            api_subject(MESSAGE_DELETE, "*"),
            api_subject(CONSUMER_INFO, "*", "*"),
            api_subject(DIRECT_GET, ">"),
            *_DISCOVERY,
        ),
        subscribe=("cancel.>",),
    )


def _sidecar(user: str) -> Rights:
    """Writes points, and looks at what queues hold; it has no business with turns and replies."""
    return Rights(
        publish=(
            "telemetry.>",
            "node.*",
            api_subject(NEXT_MESSAGE, TELEMETRY, WRITER),
            acks(TELEMETRY, WRITER),
            api_subject(ACCOUNT_INFO),
            api_subject(STREAM_NAMES),
            _PLACEMENT,
            api_subject(STREAM_INFO, "*"),
            api_subject(CONSUMER_INFO, "*", "*"),
            *_DISCOVERY,
        ),
        subscribe=("queue.>", "run.*", "telemetry.*"),
    )


_RIGHTS: dict[str, Callable[[str], Rights]] = {
    "worker": _worker,
    "board": _board,
    "producer": _producer,
    "sidecar": _sidecar,
    "gateway": _gateway,
    "reaper": _reaper,
}
ROLES = ("operator", *_RIGHTS)


def permissions(role: str, user: str) -> dict[str, Any]:
    """A user's permissions in the server's configuration syntax. `user` is the client's name on the wire.

    Raises ValueError for a role that is none of ROLES.
    """
    user = subjects.token(user, "user")
    if role == "operator":
        return {"publish": ">", "subscribe": ">"}
    if role not in _RIGHTS:
        raise ValueError(role)
    rights = _RIGHTS[role](user)
    found: dict[str, Any] = {
        "publish": {"allow": list(rights.publish)},
        "subscribe": {"allow": [f"{subjects.inbox(user)}.>", *rights.subscribe]},
    }
    if rights.may_answer:
        found["allow_responses"] = {"max": 1, "expires": "1m"}
    return found
