"""From a file of an embedding model to a worker that serves it. As workers/main.py, which decides by the file."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nats.aio.client import Client as NatsConnection

from broker.connection import Address, close, connect
from broker.discovery import EMBED
from workers.boards.line import BoardLine
from workers.boards.loading import READY, WEIGHTS, Loading
from workers.embedding.assembly import EmbeddingParts, assemble_embedding
from workers.embedding.loop import EmbeddingLoop
from workers.embedding.metrics import EmbeddingMetrics
from workers.engine.threads import FixedThreads, Threads
from workers.identity import Identity, tags_of
from workers.llama.backend import system_info
from workers.llama.embedding import EmbeddingModel, LlamaEmbedder
from workers.llama.sizing import report
from workers.machine.cores import num_cores
from workers.machine.embedding_plan import embedding_plan
from workers.machine.memory import available_bytes
from workers.model_file import served_parts
from workers.reporting.metrics import Shape, WorkerMetrics
from workers.settings import WorkerSettings
from workers.worker import Worker, probed
from workers.worker_options import WorkerOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model in its context."""

    name: str
    """In subjects."""
    model: EmbeddingModel
    embedder: LlamaEmbedder


async def serve_embeddings(
    address: Address,
    config: WorkerSettings,
    path: Path,
    name: str,
    version: str,
    stop: asyncio.Event,
    line: BoardLine,
    loading: Loading,
) -> int:
    """Loads the model, connects, serves until `stop`. Raises TurnpikeError in one line for what is wrong."""
    with ExitStack() as cleanup:
        nc = await connect(address, name=f"turnpike-worker-{name}")
        try:
            loaded = await asyncio.to_thread(_load, path, name, config, cleanup, loading)
            worker = _assembled(nc, loaded, config, version)
            line.serving(lambda: loading.served(worker.told()), lambda most: None)
            async with probed(worker, config.health_port):
                await worker.run(stop)
        finally:
            await close(nc)
    return 0


def _load(path: Path, name: str, config: WorkerSettings, cleanup: ExitStack, loading: Loading) -> Loaded:
    plan, sizes = embedding_plan(served_parts(path), config, available_bytes())
    loading.begin(WEIGHTS)
    model = EmbeddingModel(path, heard=loading.at)
    cleanup.callback(model.close)
    embedder = LlamaEmbedder(model, sizes)
    cleanup.callback(embedder.close)
    report(plan, embedder.buffers)
    log.info("embedding dimension=%d max_text_tokens=%d", embedder.dimension, embedder.max_text_tokens)
    loading.begin(READY)
    return Loaded(name, model, embedder)


def _assembled(nc: NatsConnection, loaded: Loaded, config: WorkerSettings, version: str) -> Worker:
    model, embedder = loaded.model, loaded.embedder
    options = _options(Identity(loaded.name, model, config, version), loaded)
    tags = tags_of(options)
    seconds = EmbeddingMetrics(tags, config.num_slots)
    return assemble_embedding(
        EmbeddingParts(
            nc,
            EmbeddingLoop(embedder, lambda: _threads(config), seconds.on_step),
            options,
            WorkerMetrics(tags, config.num_slots, embedder.max_text_tokens, Shape()),
            seconds,
            config.num_slots,
            model.num_tokens,
        )
    )


def _threads(config: WorkerSettings) -> Threads | FixedThreads:
    """As many as the settings say, or as are best from step to step: fewer while a neighbour has a core."""
    fixed = config.threads_batch or config.threads
    return Threads(num_cores()) if fixed is None else FixedThreads(fixed)


def _options(identity: Identity, loaded: Loaded) -> WorkerOptions:
    leave_seconds = WorkerOptions.leave_seconds if identity.config.board_fd is None else 0.0
    return identity.options((EMBED,), _facts(identity, loaded), leave_seconds=leave_seconds)


def _facts(identity: Identity, loaded: Loaded) -> dict[str, str]:
    config = identity.config
    others = {
        "dimension": str(loaded.embedder.dimension),
        "num_slots": str(config.num_slots),
        "threads_batch_are": "measured" if isinstance(_threads(config), Threads) else "fixed",
    }
    return identity.facts(system_info(), others)
