"""A worker put together from what the entry point has: who is given whom is here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nats.aio.client import Client as NatsConnection

from broker.messages import Point
from broker.priorities import INTERACTIVE
from workers.engine.loop import EngineLoop
from workers.engine.power import Power
from workers.engine_runner import EngineRunner
from workers.health import Watch
from workers.kv.cache import OffloadCache
from workers.kv.peers import Peers
from workers.prompts.history import History
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
from workers.turns.admission import Admission
from workers.turns.answer_reader import ALL_TEXT, AnswerReaders
from workers.turns.handler import TurnHandler
from workers.turns.holding import CallGrammars, Holding
from workers.turns.in_hand import TurnsInHand
from workers.turns.jobs import GrammarCompiler, JobMaker
from workers.turns.keep_alive import KeepAlive
from workers.turns.prefetch import Prefetch
from workers.turns.prompt_questions import PromptQuestions
from workers.turns.recent import RecentTurns
from workers.turns.remembering import Remembering
from workers.turns.replays import Replays
from workers.turns.settlement import Settlement
from workers.turns.store import NatsTurnStore
from workers.turns.streaming import Streaming
from workers.worker import Worker
from workers.worker_options import WorkerOptions


@dataclass(frozen=True)
class Parts:
    """What a worker is put together from; the loop was made with this `cache`, `power` and `metrics.on_step`."""

    nc: NatsConnection
    loop: EngineLoop
    history: History
    grammars: GrammarCompiler
    options: WorkerOptions
    cache: OffloadCache
    metrics: WorkerMetrics
    power: Power
    readers: AnswerReaders = ALL_TEXT
    call_grammars: CallGrammars | None = None
    """None: what a model calls is only read."""


Assembly = Callable[[Parts], Worker]
"""Puts a worker together. `assemble` is one; a benchmark's exchanges a part."""


def assemble(parts: Parts) -> Worker:
    """A worker that was not started."""
    nc, loop, history, options, cache = parts.nc, parts.loop, parts.history, parts.options, parts.cache
    name, model, engine = options.name, options.model, loop.engine
    in_hand, recent = TurnsInHand(), RecentTurns()
    watch = Watch(nc, loop)
    node = NodeListener(nc, options.node, parts.power)
    occupancy = Occupancy(engine.num_slots, can_preempt=cache.is_on)
    presence = Presence(nc, metadata(options, engine.max_sequence_tokens), look_seconds=options.look_seconds)
    load = LoadGauge(loop, occupancy, recent, presence, node)
    peers = _peers(parts)

    def second(num_dropped: int) -> Point | None:
        return parts.metrics.second(loop.snapshot, cache.stats, peers.giver.given_bytes, num_dropped)

    reporter = Reporter(nc, options, parts.metrics, node, watch.rounds, second)
    queue, store = ModelQueue(nc, model), NatsTurnStore(nc, name, engine.vocabulary.num_tokens)
    cancels = Cancels(queue, model, name, in_hand, loop.cancel)
    limit, call_grammars = engine.max_sequence_tokens, parts.call_grammars
    holding = Holding(call_grammars, parts.readers) if call_grammars is not None else None
    jobs = JobMaker(history, parts.grammars, limit, options.overflow, parts.readers, holding)
    turns = TurnHandler(
        in_hand=in_hand,
        admission=Admission(
            name, store, cancels, peers.fetcher, jobs, loop, recent, lambda: load.expected_wait(INTERACTIVE)
        ),
        prefetch=Prefetch(loop, cache, peers.fetcher),
        streaming=Streaming(
            name,
            options.coalesce_seconds,
            Remembering(history, loop, peers.directory),
            recent,
            parts.readers,
        ),
        questions=PromptQuestions(name, history, engine.vocabulary),
        settlement=Settlement(name, store, reporter, recent),
        engine=loop,
        recent=recent,
        writer=store.writer,
        worker=name,
        fingerprint=options.fingerprint,
    )
    return Worker(
        nc=nc,
        options=options,
        engine=EngineRunner(loop, cache, in_hand, options.park_seconds),
        turns=turns,
        puller=TurnPuller(queue, occupancy, options.pull_seconds),
        asides=AsidePuller(queue, options.pull_seconds),
        cancels=CancelListener(nc, model, cancels),
        keep_alive=KeepAlive(nc, watch.rounds),
        peers=peers,
        replays=Replays(nc, store),
        presence=presence,
        load=load,
        node=node,
        reporter=reporter,
        watch=watch,
    )


def _peers(parts: Parts) -> Peers:
    loop, options = parts.loop, parts.options
    return Peers(
        parts.nc,
        loop,
        parts.cache,
        parts.history,
        model=options.model,
        worker=options.name,
        layout=loop.calibration.layout(options.state_fingerprint),
        max_bytes_per_second=options.fetch_bytes_per_second,
    )
