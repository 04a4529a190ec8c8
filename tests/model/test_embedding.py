"""Vectors by llama.cpp, of BERTs with random weights: what NumPy computes of the same file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest

from tests.bert import Bert
from workers.embedding.texts import embeddings
from workers.llama.bert_model import BertShape, write_random_bert
from workers.llama.embedding import EmbeddingModel, LlamaEmbedder
from workers.machine.embedding_plan import BATCH_TOKENS, embedding_plan
from workers.machine.memory import DoesNotFit
from workers.model_file import ModelFileError, answering_parts, embeds, served_parts
from workers.settings import WorkerSettings

TEXTS = ["the fan of the node is hot", "where is the mast", "check the filter, alarm!", "a"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_bert(tmp_path_factory.mktemp("bert") / "bert.gguf")


@contextmanager
def embedder_of(path: Path, num_ctx: int = 8192) -> Iterator[LlamaEmbedder]:
    settings = msgspec.structs.replace(WorkerSettings(), num_ctx=num_ctx)
    _, sizes = embedding_plan([path], settings, 1 << 40)
    model = EmbeddingModel(path)
    embedder = LlamaEmbedder(model, sizes)
    try:
        yield embedder
    finally:
        embedder.close()
        model.close()


def vectors(embedder: LlamaEmbedder, batch: list[list[int]]) -> np.ndarray:
    found = embeddings(embedder.embed(batch, 1), embedder.dimension)
    return np.frombuffer(found.data, "<f4").reshape(len(batch), found.dimension)


def test_vectors_are_those_that_numpy_computes_alone_and_in_a_batch(bert: Path) -> None:
    model = Bert(bert)
    with embedder_of(bert) as embedder:
        batch = [embedder.tokens_of(text) for text in TEXTS]
        wanted = np.stack([model.embed(tokens) for tokens in batch])
        together = vectors(embedder, batch)
        assert np.abs(together - wanted).max() < 1e-3
        for tokens, one in zip(batch, wanted, strict=True):
            assert np.abs(vectors(embedder, [tokens])[0] - one).max() < 1e-3
        assert np.abs(vectors(embedder, batch[::-1]) - wanted[::-1]).max() < 1e-3


def test_a_full_step_has_the_same_vectors(bert: Path) -> None:
    with embedder_of(bert) as embedder:
        tokens = embedder.tokens_of("check the node")
        num = min(embedder.max_batch_texts, BATCH_TOKENS // len(tokens))
        found = vectors(embedder, [tokens] * num)
        assert np.abs(found - found[0]).max() < 1e-5


def test_where_a_file_does_not_say_how_to_pool_it_is_the_mean(tmp_path: Path) -> None:
    path = write_random_bert(tmp_path / "silent.gguf", BertShape(pooling=None))
    with embedder_of(path) as embedder:
        tokens = embedder.tokens_of(TEXTS[0])
        assert np.abs(vectors(embedder, [tokens])[0] - Bert(path).embed(tokens)).max() < 1e-3


def test_a_file_that_pools_its_first_token_gives_another_vector(tmp_path: Path, bert: Path) -> None:
    path = write_random_bert(tmp_path / "cls.gguf", BertShape(pooling=gguf.PoolingType.CLS))
    with embedder_of(path) as first, embedder_of(bert) as mean:
        tokens = first.tokens_of(TEXTS[0])
        assert np.abs(vectors(first, [tokens]) - vectors(mean, [tokens])).max() > 0.05


def test_control_tokens_that_a_text_spells_are_text_and_its_ends_are_the_model_s(bert: Path) -> None:
    with embedder_of(bert) as embedder:
        tokens = embedder.tokens_of("[SEP] a [CLS]")
        cls, sep = 2, 3
        assert (tokens[0], tokens[-1]) == (cls, sep)
        assert not {cls, sep} & set(tokens[1:-1])
        assert embedder.cut(range(1000))[-1] == 999
        assert len(embedder.cut(range(1000))) == embedder.max_text_tokens == 128


def test_a_small_context_bounds_texts_and_the_longest_that_fits_is_computed(bert: Path) -> None:
    with embedder_of(bert, num_ctx=64) as embedder:
        assert embedder.max_text_tokens == 64
        assert vectors(embedder, [[5] * 64]).shape == (1, 64)


def test_what_does_not_fit_into_memory_is_refused_with_what_would(bert: Path) -> None:
    plan, _ = embedding_plan([bert], WorkerSettings(), 1 << 40)
    with pytest.raises(DoesNotFit):
        embedding_plan([bert], WorkerSettings(), plan.total)


def test_an_embedding_model_is_served_and_a_reranker_is_not(bert: Path, tmp_path: Path) -> None:
    assert embeds(bert)
    assert served_parts(bert) == [bert]
    with pytest.raises(ModelFileError, match="makes vectors and no text"):
        answering_parts(bert)
    reranker = write_random_bert(tmp_path / "rank.gguf", BertShape(pooling=gguf.PoolingType.RANK))
    assert not embeds(reranker)
    with pytest.raises(ModelFileError, match="a reranker"):
        served_parts(reranker)
