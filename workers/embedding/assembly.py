"""An embedding worker put together: what every worker has, without conversations, what is kept of them, and peers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from nats.aio.client import Client as NatsConnection

from broker import publishing
from broker.messages import Point
from workers.embedding.loop import EmbeddingLoop
from workers.embedding.metrics import EmbeddingMetrics
from workers.embedding.texts import TextReader
from workers.embedding.turns import EmbeddingTurns
from workers.engine.events import Lost
from workers.engine.power import Power
from workers.health import Watch
from workers.kv.index import Key
from workers.queue.asides import AsidePuller
from workers.queue.cancels import CancelListener, Cancels
from workers.queue.model_queue import ModelQueue
from workers.queue.occupancy import Occupancy
from workers.queue.pulling import TurnPuller
from workers.reporting.load import LoadGauge
from workers.reporting.metrics import WorkerMetrics
from workers.reporting.node import NodeListener
from workers.reporting.presence import Presence, metadata
from workers.reporting.reporter import Reporter
from workers.turns.in_hand import TurnsInHand
from workers.turns.keep_alive import KeepAlive
from workers.turns.recent import RecentTurns
from workers.turns.replays import Replays
from workers.turns.settlement import Settlement
from workers.turns.store import NatsTurnStore
from workers.turns.understanding import Understanding
from workers.worker import Worker
from workers.worker_options import WorkerOptions


@dataclass(frozen=True)
class EmbeddingParts:
    """What an embedding worker is put together from; the loop was made with `seconds.on_step`."""

    nc: NatsConnection
    loop: EmbeddingLoop
    options: WorkerOptions
    turns: WorkerMetrics
    seconds: EmbeddingMetrics
    num_slots: int
    num_tokens: int
    """Of the vocabulary."""


class EmbeddingRunner:
    """The engine's threads beside the asyncio loop. Nothing is kept when they end."""

    def __init__(self, loop: EmbeddingLoop, in_hand: TurnsInHand, num_slots: int) -> None:
        self._loop = loop
        self._in_hand = in_hand
        self.num_slots = num_slots

    @property
    def lost_reason(self) -> str | None:
        """Why the engine is gone; None while it is there."""
        return self._in_hand.lost_reason

    def start(self, stop: asyncio.Event) -> None:
        """Starts the threads; `stop` is set where the engine is lost."""
        loop = asyncio.get_running_loop()

        def hear(reason: str) -> None:
            self._in_hand.route([Lost(reason)])
            stop.set()

        def lost(reason: str) -> None:
            loop.call_soon_threadsafe(hear, reason)

        self._loop.start(lost)

    def stop(self, is_drained: bool) -> Mapping[Key, int]:
        """Ends the threads. Blocks."""
        self._loop.stop()
        return {}


def assemble_embedding(parts: EmbeddingParts) -> Worker:
    """A worker that was not started."""
    nc, loop, options = parts.nc, parts.loop, parts.options
    in_hand, recent, watch = TurnsInHand(), RecentTurns(), Watch(nc, loop)
    node, occupancy = NodeListener(nc, options.node, Power()), Occupancy(parts.num_slots)
    presence = Presence(nc, metadata(options, loop.embedder.max_text_tokens), look_seconds=options.look_seconds)

    def second(num_dropped: int) -> Point | None:
        return parts.seconds.second(loop.snapshot, loop.num_threads, num_dropped)

    reporter = Reporter(nc, options, parts.turns, node, watch.rounds, second)
    queue, store = ModelQueue(nc, options.model), NatsTurnStore(nc, options.name, parts.num_tokens)
    cancels = Cancels(queue, options.model, options.name, in_hand, loop.cancel)
    turns = EmbeddingTurns(
        in_hand=in_hand,
        settlement=Settlement(options.name, store, reporter, recent),
        recent=recent,
        writer=store.writer,
        worker=options.name,
        fingerprint=options.fingerprint,
        understanding=Understanding(options.name, store, cancels),
        reader=TextReader(loop.embedder, parts.num_tokens, publishing.limit(nc)),
        loop=loop,
    )
    return Worker(
        nc=nc,
        options=options,
        engine=EmbeddingRunner(loop, in_hand, parts.num_slots),
        turns=turns,
        puller=TurnPuller(queue, occupancy, options.pull_seconds),
        asides=AsidePuller(queue, options.pull_seconds),
        cancels=CancelListener(nc, options.model, cancels),
        keep_alive=KeepAlive(nc, watch.rounds),
        peers=None,
        replays=Replays(nc, store),
        presence=presence,
        load=LoadGauge(loop, occupancy, recent, presence, node),
        node=node,
        reporter=reporter,
        watch=watch,
    )
