"""An embedder that needs no model, and a worker of it: a text's tokens are its words, and its vector their numbers."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np

from broker.connection import Address, close, connect
from broker.discovery import EMBED
from broker.server import EmbeddedServer
from workers.embedding.assembly import EmbeddingParts, assemble_embedding
from workers.embedding.loop import EmbeddingLoop
from workers.embedding.metrics import EmbeddingMetrics
from workers.embedding.protocol import Tokens
from workers.engine.protocol import EngineLost
from workers.reporting.metrics import Shape, WorkerMetrics
from workers.worker import Worker
from workers.worker_options import WorkerOptions

NUM_TOKENS = 1000
TAGS = {"node": "n", "model": "m", "quantization": "none", "worker": "w1"}


class FakeEmbedder:
    """Implements Embedder. While its gate is closed no step ends."""

    def __init__(self, dimension: int = 4, max_text_tokens: int = 8, max_batch_tokens: int = 16) -> None:
        self.dimension = dimension
        self.max_text_tokens = max_text_tokens
        self.max_batch_tokens = max_batch_tokens
        self.max_batch_texts = 8
        self.gate = threading.Event()
        self.gate.set()
        self.steps: list[list[list[int]]] = []
        self.begun = threading.Event()
        self.is_broken = False

    def tokens_of(self, text: str, *, is_bare: bool = False) -> list[int]:
        return [zlib.crc32(word.encode()) % NUM_TOKENS for word in text.split()]

    def cut(self, tokens: Tokens) -> Tokens:
        return tokens[: self.max_text_tokens]

    def embed(self, batch: Sequence[Tokens], num_threads: int) -> list[bytes]:
        self.steps.append([list(tokens) for tokens in batch])
        self.begun.set()
        assert self.gate.wait(30)
        if self.is_broken:
            raise EngineLost(-1)
        return [self.raw_vector(tokens) for tokens in batch]

    def raw_vector(self, tokens: Tokens) -> bytes:
        return (np.resize(np.asarray(tokens, "<f4"), self.dimension) + 1).astype("<f4").tobytes()

    def vector(self, text: str) -> np.ndarray:
        """What a client gets of a text."""
        found = np.frombuffer(self.raw_vector(self.tokens_of(text)), "<f4")
        return np.asarray(found / np.linalg.norm(found))


def options_of(name: str, model: str = "m") -> WorkerOptions:
    return WorkerOptions(
        name=name, model=model, fingerprint="f", pull_seconds=0.2, can=(EMBED,), look_seconds=0.1, leave_seconds=0.0
    )


@asynccontextmanager
async def embedding_worker(
    server: EmbeddedServer, embedder: FakeEmbedder, name: str = "w1", model: str = "m", num_slots: int = 4
) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """A worker that serves, and its task."""
    async with embedding_worker_at(server.address("worker"), embedder, name, model, num_slots) as found:
        yield found


@asynccontextmanager
async def embedding_worker_at(
    address: Address, embedder: FakeEmbedder, name: str, model: str, num_slots: int = 4
) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """The same, of a server in whatever process."""
    nc = await connect(address, name=name)
    tags = TAGS | {"worker": name, "model": model}
    metrics = EmbeddingMetrics(tags, num_slots)
    loop = EmbeddingLoop(embedder, on_step=metrics.on_step)
    turns = WorkerMetrics(tags, num_slots, embedder.max_text_tokens, Shape())
    parts = EmbeddingParts(nc, loop, options_of(name, model), turns, metrics, num_slots, NUM_TOKENS)
    worker, stop = assemble_embedding(parts), asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    try:
        async with asyncio.timeout(20):
            await worker.is_serving.wait()
        yield worker, task
    finally:
        stop.set()
        embedder.gate.set()
        await asyncio.wait({task}, timeout=10)
        await close(nc)
