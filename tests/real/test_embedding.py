"""all-MiniLM-L6-v2 by a worker of its own process: NumPy's vectors, and what is alike is near."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from producers.local_system import local_system
from tests.bert import Bert
from tests.real import real_model
from tests.support import ROOT
from workers.llama.embedding import EmbeddingModel, LlamaEmbedder
from workers.machine.embedding_plan import embedding_plan
from workers.settings import WorkerSettings

MINILM = "all-minilm-l6-v2"
PAIRS = (
    ("How do I restart the node?", "In which way can the machine be rebooted?"),
    ("The mast is 42 metres high.", "How tall is the tower?"),
    ("My cat sleeps all day.", "The kitten is always napping."),
)
WIDE = "Ein Mäuschen aß Käse – 日本語 & naïve café; ½ ÷ 3"
"""Accents, other scripts and signs: what WordPiece's normaliser has most to do with."""


@pytest.fixture(scope="module")
def minilm() -> Path:
    return real_model(MINILM)


def tokens_of(path: Path, texts: list[str]) -> list[list[int]]:
    model = EmbeddingModel(path)
    embedder = LlamaEmbedder(model, embedding_plan([path], WorkerSettings(), 1 << 40)[1])
    try:
        return [embedder.tokens_of(text) for text in texts]
    finally:
        embedder.close()
        model.close()


async def test_a_worker_s_vectors_are_numpy_s_and_what_is_alike_is_near(minilm: Path, tmp_path: Path) -> None:
    texts = [text for pair in PAIRS for text in pair] + [WIDE]
    async with local_system(ROOT / "turnpike", tmp_path, model="m", model_file=minilm) as system:
        vectors = await system.client.embed("m", texts, priority="interactive")
        found = np.frombuffer(vectors.data, "<f4").reshape(len(texts), 384)
        numpy = Bert(minilm)
        wanted = np.stack([numpy.embed(tokens) for tokens in tokens_of(minilm, texts)])
        assert np.abs(found - wanted).max() < 1e-3
        near = found[:6:2] @ found[1:6:2].T
        assert (near.argmax(axis=1) == np.arange(3)).all()
        system.worker.send_signal(signal.SIGTERM)
        assert await system.worker.wait() == 0


def test_wordpiece_is_that_of_the_model_s_own_tokenizer(minilm: Path) -> None:
    """As the model's tokenizer.json tokenises it (noted once): lower case, no accents, a piece for each ideograph."""
    (tokens,) = tokens_of(minilm, ["Ein Käse – naïve café"])
    assert tokens == [101, 16417, 10556, 3366, 1516, 15743, 7668, 102]
