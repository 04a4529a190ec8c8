"""Streams and consumers as data, and `ensure`, which makes a server look like them.

`ensure` is an operator's right: workers and producers never create anything. It is idempotent, and it updates what an
older release made. The configurations are the server's own JSON (docs.nats.io, JetStream wire API), because the
options that the promises rest on are newer than nats-py's types.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client as NatsConnection

from broker import jetstream, subjects
from broker.errors import NotReady, ServerError
from broker.messages.boards import MAX_STATE_BYTES
from broker.priorities import LANES
from broker.process import ended_by_a_signal
from broker.retrying import retried

ACK_WAIT_SECONDS = 30.0
MAX_PAYLOAD_BYTES = 1024 * 1024
KEPT_SECONDS = 24 * 3600.0
"""Of answers that clients asked to be kept."""
RETRY_SECONDS = 1.0
OUTAGE_SECONDS = 60.0
"""How long a server that does not answer any more may take to come back: it is being restarted."""


@dataclass(frozen=True)
class Limits:
    """The bounds of what the server stores."""

    max_queued_turns: int = 10_000
    max_queued_bytes: int = 256 * 1024 * 1024
    """Of a queue that was asked for by its name."""
    max_announced_bytes: int = 16 * 1024 * 1024
    """Of one that was not, of which there may be many: the server sets aside as much of its disk for each."""
    max_reply_bytes: int = 512 * 1024 * 1024
    max_end_bytes: int = 512 * 1024 * 1024
    max_dead_bytes: int = 64 * 1024 * 1024
    max_telemetry_bytes: int = 256 * 1024 * 1024
    max_directory_bytes: int = 32 * 1024 * 1024
    """About 100,000 conversations."""
    max_kept_bytes: int = 24 * 1024 * 1024
    """Of answers that clients asked to be kept: set aside on every server, also where the disk is small."""
    ack_wait_seconds: float = ACK_WAIT_SECONDS
    """A turn whose worker has not been heard of for so long is given to another."""


def _seconds(value: float) -> int:
    return int(value * jetstream.NANOSECONDS)


def _stream(name: str, subject: str, max_bytes: int, **others: Any) -> dict[str, Any]:
    """On disk, bounded, with direct gets; by default a full one forgets its oldest messages."""
    return {
        "name": name,
        "subjects": [subject],
        "storage": "file",
        "num_replicas": 1,
        "allow_direct": True,
        "max_msg_size": MAX_PAYLOAD_BYTES,
        "retention": "limits",
        "discard": "old",
        "max_bytes": max_bytes,
    } | others


def _turns(model: str, limits: Limits) -> dict[str, Any]:
    return _stream(
        subjects.turns_stream(model),
        subjects.turns(model),
        limits.max_queued_bytes,
        retention="workqueue",
        discard="new",
        max_msgs=limits.max_queued_turns,
        max_consumers=len(LANES),
        duplicate_window=_seconds(120),
        # Who has to load the model for it hears of a turn at once, as stored: no turn's text goes round for that.
        republish={"src": subjects.turns(model), "dest": subjects.queued(model), "headers_only": True},
    )


def _replies(limits: Limits) -> dict[str, Any]:
    return _stream(
        subjects.REPLIES,
        subjects.ALL_REPLIES,
        limits.max_reply_bytes,
        max_age=_seconds(3600),
        # Chunks are fenced and repeatable, so they need not wait for the disk as turns and ends do.
        persist_mode="async",
        republish={"src": subjects.ALL_REPLIES, "dest": subjects.ALL_LIVE},
    )


def _ends(limits: Limits) -> dict[str, Any]:
    return _stream(
        subjects.ENDS,
        subjects.ALL_ENDS,
        limits.max_end_bytes,
        # One end a turn: the first writer wins, the server refuses a second.
        discard="new",
        discard_new_per_subject=True,
        max_msgs_per_subject=1,
        max_age=_seconds(24 * 3600),
        # Those that are large and made anew at little cost go early (`broker/replies.py`).
        allow_msg_ttl=True,
        republish={"src": subjects.ALL_ENDS, "dest": subjects.ALL_LIVE},
    )


def _cancels() -> dict[str, Any]:
    max_bytes = 16 * 1024 * 1024
    return _stream(subjects.CANCELS, subjects.ALL_CANCELS, max_bytes, max_msgs_per_subject=1, max_age=_seconds(3600))


def _dead(limits: Limits) -> dict[str, Any]:
    # A letter holds the turn's own bytes and a few fields more.
    return _stream(subjects.DEAD, subjects.ALL_DEAD, limits.max_dead_bytes, max_msg_size=-1)


def _telemetry(limits: Limits) -> dict[str, Any]:
    max_bytes, max_age = limits.max_telemetry_bytes, _seconds(24 * 3600)
    return _stream(subjects.TELEMETRY, subjects.ALL_TELEMETRY, max_bytes, max_age=max_age, persist_mode="async")


def _directory(limits: Limits) -> dict[str, Any]:
    """A bucket as NATS's clients know them (ADR-8), but for one thing: a full one forgets its oldest entries."""
    return _stream(
        subjects.KV_HELD,
        subjects.ALL_HELD,
        limits.max_directory_bytes,
        # What it says is true while the workers run: no disk is worn for it.
        storage="memory",
        max_msgs_per_subject=1,
        max_age=_seconds(24 * 3600),
        max_msg_size=4096,
        allow_rollup_hdrs=True,
        deny_delete=True,
    )


def _kept(limits: Limits) -> dict[str, Any]:
    """A bucket of answers, each for a day; a full one forgets its oldest entries."""
    return _stream(
        subjects.KV_ANSWERS,
        subjects.ALL_KEPT,
        limits.max_kept_bytes,
        max_msgs_per_subject=1,
        max_age=_seconds(KEPT_SECONDS),
        # What takes an answer back goes by itself.
        allow_msg_ttl=True,
        allow_rollup_hdrs=True,
        deny_delete=True,
        persist_mode="async",
    )


def _placement() -> dict[str, Any]:
    """A bucket too. Entries last as long as whoever writes them says (`Nats-TTL`), orders until others are given."""
    return _stream(
        subjects.KV_PLACEMENT,
        subjects.ALL_PLACEMENT,
        4 * 1024 * 1024,
        # A full one must not forget an order; what boards say makes room within seconds, as it expires.
        discard="new",
        max_msgs_per_subject=1,
        max_msg_size=MAX_STATE_BYTES,
        allow_msg_ttl=True,
        allow_rollup_hdrs=True,
        deny_delete=True,
        # Boards write every two seconds: no disk waits for that, nor is worn by it.
        persist_mode="async",
        # As stored: a claim that was refused is heard of by nobody.
        republish={"src": subjects.ALL_PLACEMENT, "dest": subjects.ALL_PLACED},
    )


def streams(models: Iterable[str], limits: Limits = Limits()) -> list[dict[str, Any]]:
    """The configuration of every stream."""
    return [
        *(_turns(model, limits) for model in models),
        _replies(limits),
        _ends(limits),
        _cancels(),
        _dead(limits),
        _telemetry(limits),
        _directory(limits),
        _kept(limits),
        _placement(),
    ]


def telemetry_consumer() -> dict[str, Any]:
    """The consumer that all sidecars share: each batch of points is written by one of them."""
    return {
        "durable_name": subjects.WRITER,
        "name": subjects.WRITER,
        "filter_subject": subjects.ALL_TELEMETRY,
        "ack_policy": "explicit",
        "ack_wait": _seconds(30),
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_deliver": -1,
        # What a database that is away may hold up: the rest stays in the stream.
        "max_ack_pending": 256,
        "max_waiting": 512,
    }


def consumers(model: str, limits: Limits = Limits()) -> list[dict[str, Any]]:
    """The pull consumers of a model, which all its workers share."""
    return [
        {
            "durable_name": lane,
            "name": lane,
            "filter_subject": subjects.turns(model, lane),
            "ack_policy": "explicit",
            "ack_wait": _seconds(limits.ack_wait_seconds),
            "deliver_policy": "all",
            "replay_policy": "instant",
            # Poison is counted by `started` chunks, not by deliveries, which hand-backs count too.
            "max_deliver": -1,
            "max_ack_pending": 1000,
            "max_waiting": 512,
        }
        for lane in LANES
    ]


async def ensure(nc: NatsConnection, models: Iterable[str], limits: Limits = Limits()) -> list[str]:
    """Creates or updates every stream and consumer; returns a line for each one that changed."""
    models = [subjects.token(model, "model") for model in models]
    changed = [await _ensure_stream(nc, config) for config in streams(models, limits)]
    changed.append(await _ensure_consumer(nc, subjects.TELEMETRY, telemetry_consumer()))
    for model in models:
        changed += await _ensure_consumers(nc, model, limits)
    return [line for line in changed if line]


async def ensure_queue(nc: NatsConnection, model: str, limits: Limits = Limits()) -> list[str]:
    """Creates or updates one model's stream and consumers; returns a line for each one that changed. Raises NoRoom,
    where the server has less left than its turns may take."""
    changed = [await _ensure_stream(nc, _turns(subjects.token(model, "model"), limits))]
    changed += await _ensure_consumers(nc, model, limits)
    return [line for line in changed if line]


async def _ensure_consumers(nc: NatsConnection, model: str, limits: Limits) -> list[str | None]:
    stream = subjects.turns_stream(model)
    return [await _ensure_consumer(nc, stream, config) for config in consumers(model, limits)]


async def _ensure_stream(nc: NatsConnection, config: dict[str, Any]) -> str | None:
    name = config["name"]
    found = await jetstream.stream(nc, name)
    if found is None:
        await jetstream.create_stream(nc, config)
        return f"stream {name}: created"
    if _holds(found.config, config):
        return None
    # What we do not set keeps the operator's value.
    await jetstream.update_stream(nc, found.config | config)
    return f"stream {name}: updated"


async def _ensure_consumer(nc: NatsConnection, stream: str, config: dict[str, Any]) -> str | None:
    name = config["name"]
    found = await jetstream.consumer(nc, stream, name)
    if found is not None and _holds(found.config, config):
        return None
    await jetstream.create_consumer(nc, stream, config)
    return f"consumer {stream}/{name}: {'created' if found is None else 'updated'}"


def _holds(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    # The server leaves out what is at its zero value.
    return all(found.get(key) == value or (key not in found and not value) for key, value in wanted.items())


async def require(nc: NatsConnection, model: str, wait: float = 0.0) -> float:
    """Checks that the model's stream and consumers exist; returns their ack_wait in seconds. Raises NotReady, after
    `wait` seconds of looking again, and ServerError where the server, which was there, stays away."""

    def patience(error: Exception) -> float:
        return wait if isinstance(error, NotReady) else max(wait, OUTAGE_SECONDS)

    with ended_by_a_signal():
        return await retried(lambda: _require(nc, model), after=ServerError, delay=RETRY_SECONDS, patience=patience)


async def _require(nc: NatsConnection, model: str) -> float:
    stream = subjects.turns_stream(model)
    ack_wait = ACK_WAIT_SECONDS
    for lane in LANES:
        found = await jetstream.consumer(nc, stream, lane)
        if found is None:
            raise NotReady(f"consumer {stream}/{lane}")
        ack_wait = found.ack_wait_seconds
    return ack_wait
