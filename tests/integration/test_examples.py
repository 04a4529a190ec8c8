"""examples/python: programs that know nothing but the package `turnpike`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, publishing, subjects
from broker.accounts import LOCAL, OPERATOR, WORKER, write_credentials
from broker.messages import Message, Turn
from broker.priorities import BATCH
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import ROOT, eventually

EXAMPLES = ROOT / "examples" / "python"
NUM_PROMPTS = 200
TURNS = subjects.turns_stream("m")


@pytest.fixture
def credentials(nats_server: EmbeddedServer, tmp_path: Path) -> Path:
    path = tmp_path / "local.credentials"
    write_credentials(path, nats_server.address(LOCAL))
    return path


@asynccontextmanager
async def started(
    name: str, *arguments: str | Path, credentials: Path, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / f"{name}.py"),
        *map(str, arguments),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TURNPIKE_CREDENTIALS": str(credentials)} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), errors.decode()


async def test_a_question_is_asked_and_its_answer_streamed(start_worker: StartWorker, credentials: Path) -> None:
    async with start_worker(), started("ask", "m", "grüße, 日本", credentials=credentials) as asking:
        code, out, errors = await ended(asking)
    assert (code, out) == (0, "echo grüße, 日本\n"), errors
    assert "tokens by w1" in errors


async def test_a_model_that_nobody_serves_is_told_in_a_line(nats_server: EmbeddedServer, credentials: Path) -> None:
    async with started("ask", "nobody", "hello", credentials=credentials) as asking:
        code, _, errors = await ended(asking)
    assert (code, errors.count("\n")) == (1, 1), errors
    assert "nobody" in errors


@pytest.mark.parametrize(
    ("name", "arguments", "missing", "sentence"),
    [
        ("ask", (), "", "the following arguments are required: model, question"),
        ("ask", ("m", "x"), "TURNPIKE_CREDENTIALS", "TURNPIKE_CREDENTIALS is not set"),
        ("batch", ("m",), "", "the following arguments are required: prompts, answers"),
        ("batch", ("m", "p", "a"), "TURNPIKE_CREDENTIALS", "TURNPIKE_CREDENTIALS is not set"),
        ("batch", ("m", "/nope", "{folder}/a"), "", "batch: /nope: No such file or directory"),
        ("bot", (), "", "the following arguments are required: model, subject"),
        ("bot", ("m", "s"), "BOT_URL", "BOT_URL is not set"),
    ],
)
async def test_a_slip_is_answered_with_a_sentence(
    credentials: Path,
    tmp_path: Path,
    name: str,
    arguments: tuple[str, ...],
    missing: str,
    sentence: str,
) -> None:
    found = {"TURNPIKE_CREDENTIALS": str(credentials), "BOT_URL": "nats://127.0.0.1:1"}
    environment = {variable: text for variable, text in found.items() if variable != missing}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / f"{name}.py"),
        *(one.format(folder=tmp_path) for one in arguments),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    code, _, errors = await ended(process)
    assert code, errors
    assert sentence in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert {path.name for path in tmp_path.iterdir()} <= {"server", "local.credentials"}, "it left something"


# --- A batch job ---


def lines_of(answers: Path) -> list[dict[str, str | int]]:
    """One that is being written is none yet."""
    content = answers.read_bytes() if answers.exists() else b""
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


async def num_queued_ever(operator: NatsConnection) -> int:
    info = await jetstream.stream(operator, TURNS)
    assert info is not None
    return info.state.last_sequence


async def test_a_batch_job_that_is_killed_goes_on_with_nothing_asked_twice_and_nothing_lost(
    start_worker: StartWorker, operator: NatsConnection, credentials: Path, tmp_path: Path
) -> None:
    prompts, answers = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text("".join(f"prompt {number}\n" for number in range(NUM_PROMPTS)))
    job = ("m", prompts, answers)
    before, engine = await num_queued_ever(operator), FakeEngine()
    async with start_worker(engine):
        async with started("batch", *job, credentials=credentials) as first:
            await eventually(lambda: len(lines_of(answers)) >= NUM_PROMPTS // 4)
            engine.gate.clear()  # turns that run, and turns that wait, outlive the one that asked them
            first.send_signal(signal.SIGKILL)
            await first.wait()
        num_before = len(lines_of(answers))
        assert NUM_PROMPTS // 4 <= num_before < NUM_PROMPTS
        assert await num_queued_ever(operator) - before > num_before
        with answers.open("ab") as file:
            file.write(b'{"number": 1')  # as a kill in the midst of a write leaves it
        async with started("batch", *job, credentials=credentials) as second:
            await eventually(lambda: answers.read_bytes().endswith(b"\n"))  # it has begun, and took the half line away
            engine.gate.set()
            code, _, errors = await ended(second)
            assert code == 0, errors
    found = lines_of(answers)
    assert sorted(line["number"] for line in found) == list(range(NUM_PROMPTS))
    assert all(line["text"] == f"echo prompt {line['number']}" for line in found)
    assert await num_queued_ever(operator) - before == NUM_PROMPTS


async def test_a_turn_that_was_queued_longer_ago_than_the_server_knows_ids_is_followed_and_not_queued_again(
    start_worker: StartWorker, operator: NatsConnection, credentials: Path, tmp_path: Path
) -> None:
    prompts, answers = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text("hello\n")
    answers.with_suffix(".queued").write_text("j\n0\n")
    name = hashlib.sha256(b"j 0").hexdigest()[:32]
    async with start_worker():
        turn = codec.encode(Turn(name, name, (Message("user", "hello"),)))
        await publishing.publish(operator, subjects.turn("m", BATCH, LOCAL, name), turn)  # without an id
        before = await num_queued_ever(operator)
        async with started("batch", "m", prompts, answers, credentials=credentials) as batch:
            code, _, errors = await ended(batch)
        assert code == 0, errors
        assert [line["text"] for line in lines_of(answers)] == ["echo hello"]
        assert await num_queued_ever(operator) == before


# --- A bot ---


async def test_a_bot_answers_who_asks_on_its_subject_and_remembers_the_conversation(
    nats_server: EmbeddedServer, start_worker: StartWorker, operator: NatsConnection, credentials: Path
) -> None:
    address = nats_server.address(OPERATOR)
    where = nats_server.url.replace("://", f"://{address.user}:{address.password}@")
    async with start_worker(), started("bot", "m", "bot.test", credentials=credentials, BOT_URL=where) as bot:
        assert bot.stdout is not None
        assert await asyncio.wait_for(bot.stdout.readline(), 20) == b"answering bot.test\n"
        named = {"Conversation": "alice"}
        first = await operator.request("bot.test", "grüße".encode(), timeout=10, headers=named)
        assert first.data.decode() == "echo grüße"
        second = await operator.request("bot.test", b"again", timeout=10, headers=named)
        assert second.data == b"echo again"
        refused = await operator.request("bot.test", b"x" * 100_000, timeout=10)
        assert refused.data.startswith(b"no answer: ")
        bot.send_signal(signal.SIGTERM)
        assert (await ended(bot))[0] == 0


async def test_a_bot_that_may_not_subscribe_says_so_and_ends(nats_server: EmbeddedServer, credentials: Path) -> None:
    address = nats_server.address(WORKER)
    where = nats_server.url.replace("://", f"://{address.user}:{address.password}@")
    async with started("bot", "m", "bot.test", credentials=credentials, BOT_URL=where) as bot:
        code, out, errors = await ended(bot)
    assert (code, out, errors.count("\n")) == (1, "", 1), errors
    assert 'permissions violation for subscription to "bot.test"' in errors
    assert "--help says who may" in errors
