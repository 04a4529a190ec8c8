"""`/v1/embeddings`, by the openai package as it is and by plain requests."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import numpy as np
import ollama
import openai
import pytest

from broker.server import EmbeddedServer
from tests.embedding_fakes import FakeEmbedder, embedding_worker
from tests.gateway import StartGateway, talk
from tests.integration.conftest import StartWorker

TEXTS = [f"text number {index}" for index in range(100)]


async def test_the_openai_package_gets_vectors_in_order_of_more_texts_than_a_turn_has(
    nats_server: EmbeddedServer, start_gateway: StartGateway
) -> None:
    embedder = FakeEmbedder()
    async with embedding_worker(nats_server, embedder), start_gateway() as url, talk(url) as api:
        by_base64 = await api.embeddings.create(model="m", input=TEXTS)  # the package asks for base64
        as_floats = await api.embeddings.create(model="m", input=TEXTS, encoding_format="float", dimensions=2)
        one = await api.embeddings.create(model="m", input="text number 7", user="somebody")
        tokens = await api.embeddings.create(model="m", input=[embedder.tokens_of(text) for text in TEXTS[:2]])
        of_one = await api.embeddings.create(model="m", input=embedder.tokens_of(TEXTS[1]))
    wanted = np.stack([embedder.vector(text) for text in TEXTS])
    assert np.allclose([one.embedding for one in by_base64.data], wanted, atol=1e-6)
    assert [one.index for one in by_base64.data] == list(range(100))
    cut = wanted[:, :2] / np.linalg.norm(wanted[:, :2], axis=1, keepdims=True)
    assert np.allclose([one.embedding for one in as_floats.data], cut, atol=1e-6)
    assert np.allclose(one.data[0].embedding, wanted[7], atol=1e-6)
    assert np.allclose([one.embedding for one in tokens.data], wanted[:2], atol=1e-6)
    assert np.allclose(of_one.data[0].embedding, wanted[1], atol=1e-6)
    assert by_base64.usage.prompt_tokens == by_base64.usage.total_tokens == 300
    assert (by_base64.object, by_base64.model) == ("list", "m")


async def test_llama_servers_own_path_gives_each_text_a_list_of_vectors(
    nats_server: EmbeddedServer, start_gateway: StartGateway
) -> None:
    fake = FakeEmbedder()
    await nats_server.ensure(["m"])
    async with (
        embedding_worker(nats_server, fake),
        start_gateway() as url,
        httpx2.AsyncClient(base_url=url) as http,
    ):
        wanted = [{"index": index, "embedding": [fake.vector(text).tolist()]} for index, text in enumerate("ab")]
        for path, name in (("/embedding", "content"), ("/embeddings", "input")):
            answer = await http.post(path, json={"model": "m", name: ["a", "b"], "embd_normalize": -1})
            assert answer.json() == wanted
            assert answer.headers["Turnpike-Ignored"] == "embd_normalize"
            error = (await http.post(path, json={"model": "m", name: [[]]})).json()["error"]
            assert (error["code"], error["message"]) == (400, f"{name}[0]: must not be empty")
        assert (await http.post("/embedding", json={"model": "m"})).status_code == 400


async def test_base64_is_the_vectors_bytes(nats_server: EmbeddedServer, start_gateway: StartGateway) -> None:
    embedder = FakeEmbedder()
    body = {"model": "m", "input": ["a b"], "encoding_format": "base64"}
    async with (
        embedding_worker(nats_server, embedder),
        start_gateway() as url,
        httpx2.AsyncClient(base_url=url) as http,
    ):
        answer = (await http.post("/v1/embeddings", json=body)).json()
    found = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    assert np.allclose(found, embedder.vector("a b"), atol=1e-6)


async def test_texts_come_in_all_of_llama_servers_forms(
    nats_server: EmbeddedServer, start_gateway: StartGateway
) -> None:
    fake = FakeEmbedder()
    one, two, both = fake.vector("a").tolist(), fake.vector("b").tolist(), fake.vector("a b").tolist()
    (a,), (b,) = fake.tokens_of("a"), fake.tokens_of("b")
    parts = {"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}
    cases: list[tuple[object, list[list[float]]]] = [
        ([a, "b"], [both]),
        (["a", [a, "b"], [b]], [one, both, two]),
        ({"prompt_string": "a"}, [one]),
        (["b", {"prompt_string": [a, b]}, parts], [two, both, both]),
        (parts, [both]),
    ]
    await nats_server.ensure(["m"])
    async with (
        embedding_worker(nats_server, fake),
        start_gateway() as url,
        httpx2.AsyncClient(base_url=url) as http,
    ):
        for given, wanted in cases:
            answer = await http.post("/v1/embeddings", json={"model": "m", "input": given})
            assert answer.status_code == 200, answer.text
            found = [row["embedding"] for row in answer.json()["data"]]
            assert found == [pytest.approx(vector) for vector in wanted]


@pytest.mark.parametrize(
    ("changes", "status", "param", "words"),
    [
        ({"input": []}, 400, "input", "at least one text"),
        ({"input": [""]}, 400, "input", "it has no tokens"),
        ({"input": [[]]}, 400, "input[0]", "must not be empty"),
        ({"input": [1, [2]]}, 400, "input", "only texts besides"),
        ({"input": {}}, 400, "input", "a prompt_string or a content"),
        ({"input": {"content": [{"type": "image_url", "image_url": {}}]}}, 400, "input.content[0].type", ""),
        ({"input": ["a"] * 2049}, 400, "input", "2049 texts"),
        ({"input": {"a": 1}}, 400, "input", ""),
        ({"input": "a", "dimensions": 0}, 400, "dimensions", ""),
        ({"input": "a", "dimensions": 5}, 400, None, "the model's vectors have 4, not 5"),
        ({"input": "a b c d e f g h i"}, 400, "input", "9 tokens, and the context holds 8: it is too large"),
        ({"input": ["a", [1000]]}, 400, "input", "1000 is no token"),
        ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format", ""),
        ({"input": "a", "model": "chat"}, 400, None, "cannot do that"),
        ({"input": "a", "model": "nobody"}, 404, "model", ""),
    ],
)
async def test_what_cannot_be_done_is_refused_by_its_field(
    nats_server: EmbeddedServer,
    start_gateway: StartGateway,
    start_worker: StartWorker,
    changes: dict[str, Any],
    status: int,
    param: str | None,
    words: str,
) -> None:
    await nats_server.ensure(["m", "chat"])
    async with (
        embedding_worker(nats_server, FakeEmbedder()),
        start_worker(name="w2", model="chat"),
        start_gateway() as url,
        httpx2.AsyncClient(base_url=url) as http,
    ):
        answer = await http.post("/v1/embeddings", json={"model": "m"} | changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert words in error["message"]


async def test_a_chat_with_an_embedding_model_is_refused_by_name_and_auto_never_chooses_it(
    nats_server: EmbeddedServer, start_gateway: StartGateway, start_worker: StartWorker
) -> None:
    await nats_server.ensure(["m", "chat"])
    hello: Any = [{"role": "user", "content": "hello"}]
    async with embedding_worker(nats_server, FakeEmbedder()):
        async with start_gateway() as url, talk(url) as api:
            with pytest.raises(openai.BadRequestError, match="makes vectors of texts: it cannot generate"):
                await api.chat.completions.create(model="m", messages=hello)
            with pytest.raises(openai.APIStatusError, match="no worker for 'auto'"):
                await api.chat.completions.create(model="auto", messages=hello)
        async with start_worker(name="w2", model="chat"), start_gateway() as url, talk(url) as api:
            assert (await api.chat.completions.create(model="auto", messages=hello)).model == "chat"
            assert (await api.embeddings.create(model="auto", input="a")).model == "m"


async def test_ollamas_package_gets_vectors_by_both_of_its_ways(
    nats_server: EmbeddedServer, start_gateway: StartGateway
) -> None:
    embedder = FakeEmbedder()
    async with embedding_worker(nats_server, embedder), start_gateway() as url, ollama.AsyncClient(url) as api:
        several = await api.embed("m", TEXTS[:40])
        cut = await api.embed("m", "a b c d e f g h i j", dimensions=2)
        one = await api.embeddings("m", "text number 7")
        nothing = await api.embed("m", "")
        shown = await api.show("m")
        with pytest.raises(ollama.ResponseError, match="9 tokens, and the context holds 8"):
            await api.embed("m", "a b c d e f g h i", truncate=False)
    assert np.allclose(several.embeddings, [embedder.vector(text) for text in TEXTS[:40]], atol=1e-6)
    assert (several.model, several.prompt_eval_count) == ("m", 120)
    assert len(cut.embeddings[0]) == 2
    assert np.allclose(one.embedding, embedder.vector("text number 7"), atol=1e-6)
    assert nothing.embeddings == []
    assert shown.capabilities == ["embedding"]
