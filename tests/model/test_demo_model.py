"""The shipped model: that meaning survives everything that the system does to a conversation."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import gguf
import pytest

from broker.accounts import LOCAL
from broker.client import Client
from broker.messages import Message, Sampling, TokenLogprob, Turn
from broker.server import EmbeddedServer
from producers.data.datasets import DEMO_CONVERSATIONS, Conversation, load_conversations
from tests.model.conftest import Bench
from tests.model.test_commands import run, worker
from workers.llama.context import LlamaModel
from workers.models import DEMO, AlteredModel, ShippedModel
from workers.prompts.history import History
from workers.prompts.renderer import TemplateRenderer

TOOLS = Path(__file__).parents[2] / "tools" / "demo_model"
SAMPLING = Sampling(max_tokens=48, logprobs=2)


@pytest.fixture(scope="module")
def demo() -> Iterator[LlamaModel]:
    model = LlamaModel(DEMO.verified())
    yield model
    model.close()


@pytest.fixture
async def prompts(demo: LlamaModel) -> AsyncIterator[list[list[int]]]:
    """The last question of each of eight conversations, with what was said before."""
    renderer = TemplateRenderer(demo.chat_template, bos_token="<s>", eos_token="<|im_end|>")
    await renderer.start()
    try:
        history = History(renderer, demo.vocabulary)
        yield [(await history.prompt("alice", Turn("t", one.id, one.messages[:-1]))).tokens for one in conversations()]
    finally:
        await renderer.close()


def conversations() -> list[Conversation]:
    found = load_conversations(DEMO_CONVERSATIONS)
    assert len(found) == 8
    return found


# --- The file ---


def test_the_file_is_small_and_says_where_it_comes_from() -> None:
    assert DEMO.path.stat().st_size <= 8_000_000
    fields = gguf.GGUFReader(DEMO.path).fields
    assert fields["general.author"].contents() == "Turnpike"
    assert fields["general.license"].contents() == "Apache-2.0"
    assert "make.sh" in fields["turnpike.training_command"].contents()
    hash_now = subprocess.run(
        [sys.executable, "-c", "import corpus; print(corpus.corpus_hash())"],
        cwd=TOOLS,
        capture_output=True,
        text=True,
        check=True,
    )
    assert fields["turnpike.corpus_sha256"].contents() == hash_now.stdout.strip()


def test_a_file_that_is_not_what_was_shipped_is_refused(tmp_path: Path) -> None:
    assert hashlib.sha256(DEMO.verified().read_bytes()).hexdigest() == DEMO.sha256
    altered = tmp_path / "demo.gguf"
    shutil.copy(DEMO.path, altered)
    with altered.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\0\1\2\3")
    for path in (altered, tmp_path / "missing.gguf"):
        with pytest.raises(AlteredModel, match="is not the file that was shipped"):
            ShippedModel("demo", path, DEMO.sha256).verified()


def test_its_answers_come_back_from_their_tokens(demo: LlamaModel) -> None:
    for conversation in conversations():
        for message in conversation.messages:
            tokens = demo.vocabulary.tokenize(message.content, template_spans=[], add_bos=False)
            assert b"".join(map(demo.vocabulary.piece, tokens)).decode() == message.content


# --- The same answer, however it is computed ---


def answers(bench: Bench, prompts: list[list[int]]) -> list[list[int]]:
    for index, prompt in enumerate(prompts):
        bench.submit(str(index), prompt, SAMPLING)
    bench.run()
    return [bench.tokens(str(index)) for index in range(len(prompts))]


def logprobs(bench: Bench, index: int) -> list[TokenLogprob]:
    return [one for event in bench.generated(str(index)) for one in event.logprobs]


async def test_greedy_text_is_the_same_however_it_is_computed(
    bench: Callable[..., Bench], demo: LlamaModel, prompts: list[list[int]]
) -> None:
    alone = [answers(bench(demo), [prompt])[0] for prompt in prompts]
    assert all(len(tokens) > 2 for tokens in alone)
    batch = bench(demo)
    assert answers(batch, prompts) == alone, "in a batch of eight"
    assert answers(bench(demo, budget=1e-9), prompts) == alone, "with its prefill cut elsewhere"
    mixed = bench(demo, budget=1e-9)
    for index, prompt in enumerate(prompts):
        mixed.submit(str(index), prompt, SAMPLING)
        for _ in range(3):  # the earlier ones decode between the pieces of this one's prefill
            mixed.step()
    mixed.run()
    assert [mixed.tokens(str(index)) for index in range(len(prompts))] == alone, "mixed with decodes"
    resumed = bench(demo)
    for tokens, prompt in zip(alone, prompts, strict=True):
        for sent in (1, len(tokens) // 2):
            assert resumed.answer(prompt + tokens[:sent], SAMPLING) == tokens[sent:], "resumed"


async def test_the_likeliest_token_is_likelier_by_more_than_computing_moves(
    bench: Callable[..., Bench], demo: LlamaModel, prompts: list[list[int]]
) -> None:
    one, other = bench(demo), bench(demo, budget=1e-9)
    assert answers(one, prompts) == answers(other, prompts)
    pairs = [pair for i in range(len(prompts)) for pair in zip(logprobs(one, i), logprobs(other, i), strict=True)]
    drift = max(abs(a.logprob - b.logprob) for a, b in pairs)
    margin = min(a.top[0][1] - a.top[1][1] for a, _ in pairs)
    assert margin > 4 * drift, f"margin {margin}, drift {drift}"


# --- Through the whole system ---


async def test_a_fact_of_turn_one_is_known_in_turn_three_whichever_worker_answers(nats_server: EmbeddedServer) -> None:
    facts = [
        ("Our mast is {} metres high.", "How high is our mast?", "The mast is {} metres high.", ("37", "81")),
        ("The router is in rack {}.", "Where is the router?", "The router is in rack {}.", ("K14", "S38")),
        ("The technician on call is {}.", "Who is on call?", "The technician on call is {}.", ("Tolvik", "Brandar")),
    ]
    async with AsyncExitStack() as stack:
        for name in ("w1", "w2"):
            await stack.enter_async_context(worker(nats_server, DEMO.path, "--worker-name", name, "--num-slots", "1"))
        client = await stack.enter_async_context(Client(nats_server.address(LOCAL)))
        while len(await client.workers()) < 2:
            pass
        served: set[str] = set()

        async def talk(told: str, asked: str, answer: str, value: str) -> None:
            messages: list[Message] = []
            for text in (told.format(value), "Node 12 reports a full disk. What should I do?", asked):
                messages.append(Message("user", text))
                done = await client.ask("m", messages, conversation=f"c-{value}", sampling=Sampling(max_tokens=48))
                served.add(done.worker)
                messages.append(Message("assistant", done.text))
            assert messages[-1].content == answer.format(value)
            assert "node 12" in messages[-3].content

        async with asyncio.TaskGroup() as group:
            for told, asked, answer, values in facts:
                for value in values:
                    group.create_task(talk(told, asked, answer, value))
        assert served == {"w1", "w2"}


def test_the_first_question_needs_no_broker(tmp_path: Path) -> None:
    where = ["--data-dir", str(tmp_path / "data")]
    environment = {"TMPDIR": str(tmp_path), "TURNPIKE_CONFIG": ""}
    asked = run("ask", "demo", "How do I drain a node?", *where, environment=environment)
    assert asked.stdout.startswith("First stop new turns."), asked.stderr
    chatted = run("chat", "demo", *where, environment=environment, stdin="My name is Torvik.\nWhat is my name?\n")
    assert chatted.stdout.splitlines()[-1] == "Your name is Torvik.", chatted.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_evaluation_runs_on_a_few_cases() -> None:
    command = [sys.executable, str(TOOLS / "evaluate.py"), "--count", "4", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    figures = json.loads(found.stdout)
    assert figures["recall after 2, fillings"] == 1.0
    assert figures["schema pairs, fillings"]["pairs"] == 4
