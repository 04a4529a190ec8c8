"""What the server holds: queues, streams, workers, itself. Any sidecar tells it, stamped so that all tell one point."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.request
from datetime import datetime
from typing import Any

from nats.aio.client import Client as NatsConnection

from broker import discovery, points, subjects, topology
from broker.messages import Point

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
        now = int(time.time() // EVERY_SECONDS * EVERY_SECONDS) * topology.NANOSECONDS
        self.workers = await discovery.find_workers(self._nc)
        names = await topology.api(self._nc, "STREAM.NAMES") or {}
        found: list[Point | None] = []
        for name in names.get("streams") or []:
            info = await topology.api(self._nc, f"STREAM.INFO.{name}")
            if info is None:
                continue
            found.append(_stream(now, info))
            if name.startswith(subjects.TURNS_PREFIX):
                found += [await self._queue(now, info, priority) for priority in subjects.PRIORITIES]
            elif name == subjects.TELEMETRY:
                await self._count_expired(info)
        found += self._by_model(now)
        found.append(await self._server(now))
        return found

    async def _queue(self, now: int, stream: dict[str, Any], priority: str) -> Point | None:
        name = stream["config"]["name"]
        info = await topology.api(self._nc, f"CONSUMER.INFO.{name}.{priority}")
        if info is None:
            return None
        state = stream["state"]
        oldest = None
        if state["messages"]:
            first = datetime.fromisoformat(state["first_ts"][:19] + "+00:00").timestamp()
            oldest = max(0.0, time.time() - first)
        return points.QUEUE.point(
            now,
            {"model": name.removeprefix(subjects.TURNS_PREFIX), "priority": priority},
            {
                "num_pending": info["num_pending"],
                "num_in_work": info["num_ack_pending"],
                "num_redelivered": info["num_redelivered"],
                "num_waiting_pulls": info["num_waiting"],
                "oldest_seconds": oldest,
            },
        )

    async def _count_expired(self, stream: dict[str, Any]) -> None:
        """The stream's bounds took what lies before its first message; what of it was never acknowledged is lost."""
        info = await topology.api(self._nc, f"CONSUMER.INFO.{subjects.TELEMETRY}.{subjects.WRITER}")
        if info is None:
            return
        num_gone = stream["state"]["first_seq"] - 1
        if self._num_gone is not None:
            seen = max(self._num_gone, info["ack_floor"]["stream_seq"])
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
        info = await topology.api(self._nc, "INFO") or {}
        most = info.get("limits", {}).get("max_storage", -1)
        fields: dict[str, Any] = {"store_bytes": info.get("storage"), "max_store_bytes": most if most > 0 else None}
        if self._monitor_url is not None:
            try:
                fields |= _monitored(await asyncio.to_thread(_get, f"{self._monitor_url.rstrip('/')}/varz"))
            except (OSError, ValueError, LookupError) as error:
                log.warning("server not monitored url=%s error=%s", self._monitor_url, error)
        return points.BROKER.point(now, {"server": SERVER}, fields)


def _stream(now: int, info: dict[str, Any]) -> Point | None:
    state, most = info["state"], info["config"].get("max_bytes", -1)
    return points.STREAM.point(
        now,
        {"stream": info["config"]["name"]},
        {
            "num_messages": state["messages"],
            "bytes": state["bytes"],
            "max_bytes": most if most > 0 else None,
            "num_consumers": state["consumer_count"],
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
