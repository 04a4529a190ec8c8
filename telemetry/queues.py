"""What the server holds: queues, streams, workers, itself. Any sidecar tells it, stamped so that all tell one point."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.request
from typing import Any

from nats.aio.client import Client as NatsConnection

from broker import discovery, jetstream, points, subjects
from broker.jetstream import AccountInfo, StreamInfo
from broker.messages import Point
from broker.priorities import LANES

EVERY_SECONDS = 5
"""A divisor of a minute: sidecars on several nodes stamp the same instants."""
SERVER = "nats"

log = logging.getLogger(__name__)


class Queues:
    """Asks the server. `num_expired` counts batches of points that were gone before anybody wrote them."""

    def __init__(self, nc: NatsConnection, monitor_url: str | None) -> None:
        self._nc = nc
        self._monitor_url = monitor_url
        self._num_gone: int | None = None
        self.num_expired = 0
        self.workers: list[discovery.WorkerInfo] = []

    async def points(self) -> list[Point | None]:
        """A point for each of them, of this instant; raises ServerError when the server does not answer."""
        now = int(time.time() // EVERY_SECONDS * EVERY_SECONDS) * jetstream.NANOSECONDS
        self.workers = await discovery.find_workers(self._nc)
        found: list[Point | None] = []
        for name in await jetstream.stream_names(self._nc):
            info = await jetstream.stream(self._nc, name)
            if info is None:
                continue
            found.append(_stream(now, info))
            if name.startswith(subjects.TURNS_PREFIX):
                found += [await self._queue(now, info, lane) for lane in LANES]
            elif name == subjects.TELEMETRY:
                await self._count_expired(info)
        found += self._by_model(now)
        found.append(await self._server(now))
        return found

    async def _queue(self, now: int, stream: StreamInfo, priority: str) -> Point | None:
        name = stream.name
        info = await jetstream.consumer(self._nc, name, priority)
        if info is None:
            return None
        first = stream.state.first_stored_at
        oldest = None if first is None else max(0.0, time.time() - first)
        return points.QUEUE.point(
            now,
            {"model": name.removeprefix(subjects.TURNS_PREFIX), "priority": priority},
            {
                "num_pending": info.num_pending,
                "num_in_work": info.num_ack_pending,
                "num_redelivered": info.num_redelivered,
                "num_waiting_pulls": info.num_waiting,
                "oldest_seconds": oldest,
            },
        )

    async def _count_expired(self, stream: StreamInfo) -> None:
        """The stream's bounds took what lies before its first message; what of it was never acknowledged is lost."""
        info = await jetstream.consumer(self._nc, subjects.TELEMETRY, subjects.WRITER)
        if info is None:
            return
        num_gone = stream.state.first_sequence - 1
        if self._num_gone is not None:
            seen = max(self._num_gone, info.ack_floor.stream_sequence)
            self.num_expired += max(0, num_gone - seen)
        self._num_gone = num_gone

    def _by_model(self, now: int) -> list[Point | None]:
        found = []
        for model in sorted({worker.model for worker in self.workers}):
            loads = [worker.load for worker in self.workers if worker.model == model]
            # One that drains still computes, and takes nothing.
            serving = [worker.load for worker in self.workers if worker.model == model and worker.is_serving]
            fields = {
                "num_workers": len(serving),
                "num_slots": sum(load.num_slots for load in serving),
                "num_active": sum(load.num_active for load in loads),
                "expected_wait_seconds": min((load.expected_wait_seconds for load in serving), default=None),
            }
            found.append(points.WORKERS.point(now, {"model": model}, fields))
        return found

    async def _server(self, now: int) -> Point | None:
        account = await jetstream.account(self._nc) or AccountInfo()
        fields: dict[str, Any] = {"store_bytes": account.num_bytes, "max_store_bytes": account.max_bytes}
        if self._monitor_url is not None:
            try:
                fields |= _monitored(await asyncio.to_thread(_get, f"{self._monitor_url.rstrip('/')}/varz"))
            except (OSError, ValueError, LookupError) as error:
                log.warning("server not monitored url=%s error=%s", self._monitor_url, error)
        return points.BROKER.point(now, {"server": SERVER}, fields)


def _stream(now: int, info: StreamInfo) -> Point | None:
    return points.STREAM.point(
        now,
        {"stream": info.name},
        {
            "num_messages": info.state.num_messages,
            "bytes": info.state.num_bytes,
            "max_bytes": info.max_bytes,
            "num_consumers": info.state.num_consumers,
        },
    )


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=2) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _monitored(varz: dict[str, Any]) -> dict[str, Any]:
    reserved = varz.get("jetstream", {}).get("config", {}).get("max_storage", 0)
    return {
        "cpu_ratio": varz["cpu"] / 100,
        "rss_bytes": varz["mem"],
        "num_connections": varz["connections"],
        "num_slow_consumers": varz["slow_consumers"],
        "received_bytes": varz["in_bytes"],
        "sent_bytes": varz["out_bytes"],
        "max_store_bytes": reserved if reserved > 0 else None,
    }
