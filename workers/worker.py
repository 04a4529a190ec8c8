"""A worker's life: start, serve, drain, stop. A turn's life is in workers/turns/."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import discovery, topology
from broker.delivery import Delivery
from broker.health import serve_health
from broker.messages.boards import LOADING
from broker.priorities import PRIORITIES
from workers.boards.line import FromWorker
from workers.health import Watch, WorkerLost
from workers.kv.index import Key
from workers.kv.peers import Peers
from workers.queue.asides import AsidePuller
from workers.queue.cancels import CancelListener
from workers.queue.pulling import TurnPuller
from workers.reporting.load import LoadGauge
from workers.reporting.node import NodeListener
from workers.reporting.presence import Presence
from workers.reporting.reporter import Reporter
from workers.turns.keep_alive import KeepAlive
from workers.turns.life import TurnLife
from workers.turns.replays import Replays
from workers.worker_options import WorkerOptions

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What computes, in threads of its own. `EngineRunner` is one."""

    @property
    def num_slots(self) -> int:
        """How many turns it computes at once."""
        ...

    @property
    def lost_reason(self) -> str | None:
        """Why the engine is gone; None while it is there."""
        ...

    def start(self, stop: asyncio.Event) -> None:
        """Starts the threads; `stop` is set where the engine is lost."""
        ...

    def stop(self, is_drained: bool) -> Mapping[Key, int]:
        """Ends them; how many tokens there were of each conversation then. Blocks."""
        ...


@dataclass(frozen=True, eq=False)
class Worker:
    """One model's worker on one connection, with all that lives as long as it does. `assemble` makes one."""

    nc: NatsConnection
    options: WorkerOptions
    engine: Engine
    turns: TurnLife
    puller: TurnPuller
    asides: AsidePuller
    cancels: CancelListener
    keep_alive: KeepAlive
    peers: Peers | None
    """None where nothing is kept that others could be given."""
    replays: Replays
    presence: Presence
    load: LoadGauge
    node: NodeListener
    reporter: Reporter
    watch: Watch
    is_serving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once turns are pulled."""

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop`, then drains: says so, stops pulling, finishes what is seated, hands back the rest.

        Cancelling it hands everything back at once. Raises NotReady, OtherFile, WorkerLost.
        """
        options = self.options
        ack_wait = await topology.require(self.nc, options.model, options.wait_seconds)
        await self.presence.start(self.load.load, version=options.version, may_differ=options.may_differ)
        self.engine.start(stop)
        await self.replays.start()
        await self.node.start()
        log.info("serving model=%s worker=%s slots=%d", options.model, options.name, self.engine.num_slots)
        is_drained = False
        try:
            async with self.cancels, asyncio.TaskGroup() as beats:
                beating = [
                    beats.create_task(work)
                    for work in (self.keep_alive.run(ack_wait), self.reporter.run(), self.watch.run())
                ]
                self.reporter.event("worker started")
                if self.peers is not None:
                    await self.peers.start(beats)
                await self._serve(stop)
                await self._leave()
                is_drained = True
                for task in beating:
                    task.cancel()
        finally:
            await self._end(is_drained)
        if self.engine.lost_reason is not None:
            raise WorkerLost(f"the engine died: {self.engine.lost_reason}")

    async def _serve(self, stop: asyncio.Event) -> None:
        """Takes turns until `stop`; comes back when the last of them is settled."""
        closing = asyncio.Event()
        async with asyncio.TaskGroup() as group:

            def take(delivery: Delivery) -> None:
                group.create_task(self._handle(delivery, self.puller.free))

            def take_aside(delivery: Delivery) -> None:
                group.create_task(self._handle(delivery, self.asides.free))

            pulls = [group.create_task(self.puller.run(priority, stop, take, closing)) for priority in PRIORITIES]
            pulls.append(group.create_task(self.asides.run(take_aside, closing)))
            self.presence.serve()
            self.reporter.load_waits.serves()
            self.is_serving.set()
            await stop.wait()
            log.info("draining running=%d", len(self.turns.in_hand))
            self.is_serving.clear()
            await self.presence.leave()
            # Who chose this worker's model before that was heard is still served.
            leave_seconds = self.options.leave_seconds if self.engine.lost_reason is None else 0.0
            asyncio.get_running_loop().call_later(leave_seconds, closing.set)
            await asyncio.gather(*pulls)

    async def _handle(self, delivery: Delivery, free: Callable[[Delivery], None]) -> None:
        try:
            with self.keep_alive.holding(delivery):
                await self.turns.handle(delivery)
        finally:
            free(delivery)

    async def _leave(self) -> None:
        """Stops the engine and keeps what there is of conversations; peers are given of it meanwhile."""
        self.watch.end()
        held = await asyncio.to_thread(self.engine.stop, True)
        if self.peers is not None:
            await self.peers.tell_swapped(held)
            await self.peers.stop()

    async def _end(self, is_drained: bool) -> None:
        """Takes itself out, hears and tells nothing more, stops the engine where it runs."""
        await self.presence.stop()
        self.watch.end()
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await self.replays.stop()
            await self.node.stop()
            self.reporter.event("worker stopped")
            await self.reporter.close()
        if not is_drained:
            await asyncio.to_thread(self.engine.stop, False)

    def stuck_reason(self) -> str | None:
        """Why the process should be started anew; None for a worker that is merely busy, or cut off from its server."""
        return self.watch.trouble()

    def unready_reason(self) -> str | None:
        """Why no turn is taken just now; None for a worker that serves."""
        if not self.is_serving.is_set():
            return "not serving"
        return None if self.nc.is_connected else "not connected to NATS"

    def told(self) -> FromWorker:
        """How it is, for the board that started it."""
        load, recent, waits = self.load.load(), self.load.recent, self.reporter.load_waits
        return FromWorker(
            state=LOADING if load.state == discovery.STARTING else load.state,
            num_slots=load.num_slots,
            num_in_hand=load.num_active,
            num_settled=recent.num_settled + recent.num_aside,
            num_waited=waits.num_turns,
            waited_seconds=waits.seconds,
            turn_seconds=load.turn_seconds,
            longest_turn_seconds=recent.longest_expected_seconds,
            can=self.options.can,
            trouble=self.stuck_reason(),
        )


def probed(worker: Worker, port: int | None) -> AbstractAsyncContextManager[object]:
    """Answers probes while the worker runs, where a port was given."""
    if port is None:
        return contextlib.nullcontext()
    return serve_health(port, live=worker.stuck_reason, ready=worker.unready_reason)
