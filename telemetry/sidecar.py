"""The sidecar: samples the node once a second, tells its workers how it is, and writes its share of all points."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg

from broker import codec, points, subjects
from broker.connection import Address, check, close, connect, trouble, watch
from broker.discovery import WorkerInfo
from broker.errors import InvalidMessage, ServerError
from broker.health import Rounds, either, serve_health
from broker.messages import NodeState, Point, RunEvent
from broker.process import pid_namespace
from broker.recorder import FLUSH_SECONDS, Recorder
from telemetry.board import THROTTLED_BITS, Board, Vcgencmd
from telemetry.cgroup import Cgroup
from telemetry.files import Sources
from telemetry.queues import EVERY_SECONDS, Queues
from telemetry.resources import Resources
from telemetry.settings import SidecarSettings
from telemetry.writer import Writer

LAST_POINTS_SECONDS = 2.0
ROUND_SECONDS = 120.0
"""For a loop that comes round every few seconds, also where the server is slow."""

log = logging.getLogger(__name__)


async def serve(address: Address, options: SidecarSettings, stop: asyncio.Event, *, in_pod: bool = False) -> int:
    """Connects and samples until `stop`. Raises TurnpikeError in one line for what is wrong."""
    options.check()
    node = subjects.node_name(options.node)
    rounds = Rounds()
    async with contextlib.AsyncExitStack() as stack:
        into = None
        if options.influx_url:
            from telemetry.influx import sink

            into = sink(options.influx_url, options.influx_token, options.influx_org)
            stack.push_async_callback(into.close)
        nc = await connect(address, name=f"turnpike-sidecar-{node}")
        stack.push_async_callback(close, nc)
        recorder = Recorder(nc, node)
        writer = Writer(nc, into, recorder, node, rounds) if into is not None else None
        if options.health_port is not None:
            health = serve_health(
                options.health_port,
                live=either(lambda: trouble(nc), rounds.trouble),
                ready=lambda: None if nc.is_connected else "not connected to NATS",
            )
            await stack.enter_async_context(health)
        await Sidecar(nc, node, options, recorder, writer, rounds, in_pod=in_pod).run(stop)
    return 0


class Sidecar:
    """One node's."""

    def __init__(
        self,
        nc: NatsConnection,
        node: str,
        options: SidecarSettings,
        recorder: Recorder,
        writer: Writer | None,
        rounds: Rounds | None = None,
        *,
        in_pod: bool = False,
    ) -> None:
        self._rounds = rounds or Rounds()
        self._nc = nc
        self._node = node
        self._options = options
        self._recorder = recorder
        self._writer = writer
        self._scope = "pod" if in_pod else "node"
        self._root = Path(options.root)
        self._resources = Resources(self._root, node, Path(options.data_dir).expanduser())
        self._sources = Sources()
        self._board = Board(self._root, node, Vcgencmd(options.vcgencmd))
        self._queues = Queues(nc, options.monitor_url)
        self._pids: dict[str, int] = {}
        """Of the workers beside it, by name."""
        self._pid_namespace = pid_namespace()
        self._stopped: set[str] = set()
        self._throttled: frozenset[str] = frozenset()
        self._cost_before: tuple[float, float] | None = None
        self._sample_seconds: float | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Samples until `stop`, then sends what is left."""
        heard = [
            await self._nc.subscribe(subjects.telemetry(self._node), cb=self._on_points),
            await self._nc.subscribe(subjects.RUNS, cb=self._on_run),
        ]
        self._recorder.record(self._event("sidecar started", f"on {self._node}"))
        log.info("sampling node=%s every=%gs writing=%s", self._node, self._options.sample_seconds, bool(self._writer))
        async with asyncio.TaskGroup() as group:
            work = [self._sample_for_ever(), self._watch_for_ever(), self._send_for_ever(), watch(self._nc)]
            for_ever = [group.create_task(one) for one in work]
            all_sent = asyncio.Event()
            if self._writer is not None:
                group.create_task(self._writer.run(all_sent))
            await stop.wait()
            for task in for_ever:
                task.cancel()
            self._recorder.record(self._event("sidecar stopped", f"on {self._node}"))
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                for subscription in heard:
                    await subscription.unsubscribe()
                await asyncio.wait_for(self._recorder.flush(), LAST_POINTS_SECONDS)
            all_sent.set()

    async def _send_for_ever(self) -> None:
        async for _ in _every(FLUSH_SECONDS):
            check(self._nc)
            self._rounds.begin("the sending of points", ROUND_SECONDS)
            await self._recorder.flush()

    async def _sample_for_ever(self) -> None:
        async for _ in _every(self._options.sample_seconds):
            check(self._nc)
            self._rounds.begin("sampling", self._options.sample_seconds + ROUND_SECONDS)
            started = time.perf_counter()
            try:
                # In a thread: a firmware command or a slow /sys file holds up no one.
                self._recorder.record(*await asyncio.to_thread(self._sample))
                self._sample_seconds = time.perf_counter() - started
                self._recorder.record(self._own_cost())
            except Exception:
                # A file of a board that nobody here has seen: the next sample may do without it.
                log.exception("sample failed")
            board = self._board
            state = NodeState(board.watts, board.is_estimated, board.celsius, board.is_throttled)
            with contextlib.suppress(nats.errors.Error):
                await self._nc.publish(subjects.node(self._node), codec.encode(state))

    def _sample(self) -> list[Point | None]:
        now = time.time_ns()
        found = [*self._resources.points(now), *self._board.points(now)]
        for worker, pid in list(self._pids.items()):
            if not self._resources.is_gone(pid):
                found += self._sources.points(self._worker_sources(now, worker, pid))
                continue
            del self._pids[worker]
            if worker not in self._stopped:
                found.append(self._event("worker lost", f"{worker} ended without a word", worker))
        return [*found, *self._throttling_events(found)]

    def _worker_sources(self, now: int, worker: str, pid: int) -> list[tuple[str, Callable[[], list[Point | None]]]]:
        return [
            ("process", lambda: [self._resources.process(now, pid, worker)]),
            ("cgroup", lambda: Cgroup(self._root, pid).points(now, self._node, worker, self._scope)),
        ]

    def _throttling_events(self, found: list[Point | None]) -> list[Point | None]:
        """One for each thing that the firmware has begun to hold back since the sample before."""
        for point in found:
            if point is not None and point.measurement == points.THROTTLING.name:
                now = frozenset(name for name in THROTTLED_BITS if point.fields.get(name))
                begun, self._throttled = now - self._throttled, now
                return [self._event("throttling began", name.replace("_", " ")) for name in sorted(begun)]
        return []

    def _event(self, kind: str, text: str, worker: str = points.NONE) -> Point | None:
        return points.event(self._recorder.unique(time.time_ns()), kind, text, node=self._node, worker=worker)

    def _own_cost(self) -> Point | None:
        now, spent = time.perf_counter(), time.process_time()
        before, self._cost_before = self._cost_before, (now, spent)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        writer = self._writer
        return points.SIDECAR.point(
            time.time_ns(),
            {"node": self._node},
            {
                "cpu_ratio": (spent - before[1]) / (now - before[0]) if before else None,
                "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
                "sample_seconds": self._sample_seconds,
                "num_sent": self._recorder.num_sent,
                "num_dropped": self._recorder.num_dropped,
                "num_written": writer.num_written if writer else None,
                "num_rejected": writer.num_rejected if writer else None,
                "num_expired": self._queues.num_expired,
                "write_seconds": writer.write_seconds if writer else None,
            },
        )

    async def _watch_for_ever(self) -> None:
        async for _ in _every(EVERY_SECONDS):
            check(self._nc)
            self._rounds.begin("the look at the queues", EVERY_SECONDS + ROUND_SECONDS)
            try:
                self._recorder.record(*await self._queues.points())
            except (ServerError, nats.errors.Error) as error:
                log.warning("queues not seen error=%s", error)
                continue
            except Exception:
                # An answer that nobody here has seen, of a newer server or worker: the next look may do without it.
                log.exception("queues not seen")
                continue
            for worker in self._queues.workers:
                if worker.pid is not None and worker.is_serving and self._is_beside(worker):
                    self._pids[worker.worker] = worker.pid
                    self._stopped.discard(worker.worker)

    def _is_beside(self, worker: WorkerInfo) -> bool:
        """On this node, and its process id is its own here too: not that of another pod, which has a sidecar itself."""
        return worker.node == self._node and worker.pid_namespace in ("", self._pid_namespace)

    async def _on_points(self, message: Msg) -> None:
        """The node's workers say when they stop of their own will."""
        with contextlib.suppress(InvalidMessage):
            for point in codec.decode_points(message.data, message.headers)[0]:
                if point.measurement == points.EVENT.name and point.tags.get("kind") == "worker stopped":
                    self._stopped.add(point.tags.get("worker", ""))

    async def _on_run(self, message: Msg) -> None:
        """Every sidecar hears it and makes the same point of it."""
        with contextlib.suppress(InvalidMessage):
            event = codec.decode(message.data, RunEvent, message.headers)
            self._recorder.record(points.event(event.at, event.kind, event.text or event.run, run=event.run))


async def _every(seconds: float) -> AsyncIterator[None]:
    """At whole multiples of `seconds` by the monotonic clock; what a slow round missed is left out."""
    due = time.monotonic()
    while True:
        yield
        due = max(due + seconds, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
