"""Texts become vectors over a real nats-server, by workers whose embedder needs no model."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from broker.answer import TurnFailed
from broker.client import Client
from broker.embedding import Vectors
from broker.errors import InvalidMessage
from broker.messages import EmbedText
from broker.priorities import BATCH, INTERACTIVE
from broker.server import EmbeddedServer
from tests.embedding_fakes import NUM_TOKENS, FakeEmbedder, embedding_worker
from tests.integration.conftest import StartWorker

TEXTS = [f"text number {index}" for index in range(300)]


def check(vectors: Vectors, texts: list[str]) -> None:
    """Each text has its vector."""
    embedder = FakeEmbedder()
    assert len(vectors) == len(texts)
    wanted = np.stack([embedder.vector(text) for text in texts])
    assert np.allclose(np.frombuffer(vectors.data, "<f4").reshape(wanted.shape), wanted, atol=1e-6)


async def test_a_long_list_is_shared_by_workers_and_comes_back_in_order(
    nats_server: EmbeddedServer, client: Client
) -> None:
    one, other = FakeEmbedder(), FakeEmbedder()
    async with (
        embedding_worker(nats_server, one, num_slots=1),
        embedding_worker(nats_server, other, "w2", num_slots=1),
    ):
        check(vectors := await client.embed("m", TEXTS), TEXTS)
    assert vectors.num_tokens == 3 * len(TEXTS)
    assert one.steps
    assert other.steps
    assert max(len(step) for step in one.steps) > 1


async def test_a_step_has_texts_of_several_turns(nats_server: EmbeddedServer, client: Client) -> None:
    embedder = FakeEmbedder()
    embedder.gate.clear()
    async with embedding_worker(nats_server, embedder), asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.embed("m", [text])) for text in TEXTS[:4]]
        assert await asyncio.to_thread(embedder.begun.wait, 10)
        async with asyncio.timeout(10):
            while (await client.workers(0.05))[0].load.num_active < 4:
                pass
        embedder.gate.set()
    for task, text in zip(tasks, TEXTS[:4], strict=True):
        check(task.result(), [text])
    assert len(embedder.steps) < 4


async def test_a_turn_of_a_worker_that_is_gone_is_computed_by_the_next_one(
    nats_server: EmbeddedServer, client: Client
) -> None:
    lost, next_one = FakeEmbedder(), FakeEmbedder()
    lost.gate.clear()
    lost.is_broken = True
    async with embedding_worker(nats_server, lost) as (_, task):
        asking = asyncio.ensure_future(client.embed("m", TEXTS[:3]))
        assert await asyncio.to_thread(lost.begun.wait, 10)
        lost.gate.set()
        await asyncio.wait({task}, timeout=10)
        assert "the engine died" in str(task.exception())
        async with embedding_worker(nats_server, next_one, "w2"), asyncio.timeout(20):
            check(await asking, TEXTS[:3])


async def test_who_waits_for_a_vector_goes_before_who_does_not(nats_server: EmbeddedServer, client: Client) -> None:
    embedder = FakeEmbedder(max_batch_tokens=4)
    embedder.gate.clear()
    async with embedding_worker(nats_server, embedder):
        bulk = asyncio.ensure_future(client.embed("m", ["bulk"] * 9, priority=BATCH))
        assert await asyncio.to_thread(embedder.begun.wait, 10)
        query = asyncio.ensure_future(client.embed("m", ["query"], priority=INTERACTIVE))
        async with asyncio.timeout(10):
            while (await client.workers(0.05))[0].load.num_active < 2:
                pass
        embedder.gate.set()
        check(await query, ["query"])
        check(await bulk, ["bulk"] * 9)
    assert embedder.steps[1] == [embedder.tokens_of("query")]


async def test_a_cancelled_turn_ends_at_once_and_a_late_one_at_its_deadline(
    nats_server: EmbeddedServer, client: Client
) -> None:
    embedder = FakeEmbedder()
    embedder.gate.clear()
    async with embedding_worker(nats_server, embedder):
        asking = asyncio.ensure_future(client.embed("m", TEXTS[:2]))
        assert await asyncio.to_thread(embedder.begun.wait, 10)
        await client.cancel()
        with pytest.raises(InvalidMessage, match="'cancelled'"):
            async with asyncio.timeout(10):
                await asking
        with pytest.raises(TurnFailed, match="deadline"):
            await client.embed("m", TEXTS[:2], deadline=time.time() + 0.3)


@pytest.mark.parametrize(
    ("texts", "options", "code", "words"),
    [
        (["a b c d e f g h i"], {}, "prompt_too_long", r"texts\[0\]: 9 tokens, and the context holds 8"),
        (["a", " "], {}, "empty_prompt", r"texts\[1\]"),
        (["a", (NUM_TOKENS,)], {}, "invalid_message", r"texts\[1\]: 1000 is no token"),
        (["a"], {"dimensions": 5}, "unsupported", "dimensions: the model's vectors have 4, not 5"),
    ],
)
async def test_what_the_model_cannot_is_refused_by_name(
    nats_server: EmbeddedServer, client: Client, texts: list[EmbedText], options: dict[str, Any], code: str, words: str
) -> None:
    async with embedding_worker(nats_server, FakeEmbedder()):
        with pytest.raises(TurnFailed, match=words) as caught:
            await client.embed("m", texts, **options)
    assert caught.value.failed.code == code


async def test_vectors_that_an_answer_does_not_hold_are_refused_before_they_are_computed(
    nats_server: EmbeddedServer, client: Client
) -> None:
    embedder = FakeEmbedder(dimension=10_000)
    async with embedding_worker(nats_server, embedder):
        with pytest.raises(TurnFailed, match="32 vectors of 10000 values, and an answer holds 26") as caught:
            await client.embed("m", TEXTS[:32])
        assert caught.value.failed.code == "answer_too_large"
        assert embedder.steps == []
        assert len(await client.embed("m", TEXTS[:32], dimensions=8000)) == 32


async def test_a_text_is_cut_where_that_is_asked_for_and_a_vector_to_its_first_values(
    nats_server: EmbeddedServer, client: Client
) -> None:
    embedder = FakeEmbedder()
    async with embedding_worker(nats_server, embedder):
        (vector,) = await client.embed("m", ["a b c d e f g h i j"], truncate=True, dimensions=2)
        given = await client.embed("m", [tuple(embedder.tokens_of("a b"))])
    assert embedder.steps[0] == [embedder.tokens_of("a b c d e f g h")]
    first = np.frombuffer(embedder.raw_vector(embedder.tokens_of("a b")), "<f4")[:2]
    assert list(vector) == pytest.approx(list(first / np.linalg.norm(first)))
    check(given, ["a b"])


async def test_a_chat_model_makes_no_vectors_and_an_embedding_model_no_text(
    nats_server: EmbeddedServer, client: Client, start_worker: StartWorker
) -> None:
    async with start_worker(), asyncio.timeout(20):
        with pytest.raises(TurnFailed, match="the model writes text: it makes no vectors") as caught:
            await client.embed("m", ["a"])
        assert caught.value.failed.code == "unsupported"
    async with embedding_worker(nats_server, FakeEmbedder()), asyncio.timeout(20):
        with pytest.raises(TurnFailed, match="makes vectors of texts: it cannot generate") as caught:
            await client.ask("m", "hello")
        assert caught.value.failed.code == "unsupported"
        (worker,) = await client.workers()
        assert worker.can == ("embed",)
