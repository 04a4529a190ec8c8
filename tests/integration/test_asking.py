"""What `turnpike ask` asks: words, files, what is piped in; and how it is to be answered."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from broker import codec
from broker.messages import Turn
from producers.terminal.question import question
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import TURNPIKE
from tests.terminal import Bench, Queued, output
from turnpike.cli.main import main


async def sent(queued: Queued) -> Turn:
    return codec.decode((await queued.one()).data, Turn)


async def test_the_message_is_what_is_piped_in_or_stands_before_it_where_that_is_asked_for(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker():
        for words in ([], ["-"]):
            code, _, _ = await output(bench, "ask", "m", *words, stdin="grüße\n日本\n".encode())
            assert (code, (await sent(queued)).messages[-1].content) == (0, "grüße\n日本\n")
        await output(bench, "ask", "m", "What is wrong here?", "--file", "-", stdin=b"one\n``` two\n")
        assert (await sent(queued)).messages[-1].content == "What is wrong here?\n\n````\none\n``` two\n````"


def test_a_loops_lines_are_left_to_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines").write_text("one\ntwo\n")
    with (tmp_path / "lines").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        # As where somebody has put it there for this command alone, and forgot to say so.
        assert question("alone", []) == "alone"
        assert capsys.readouterr().err == ("[what is piped in is left unread: --file - puts it behind the message]\n")
        os.lseek(stdin.fileno(), 4, os.SEEK_SET)  # as the loop's `read` leaves it
        assert question("alone", []) == "alone"
        assert os.read(stdin.fileno(), 100) == b"two\n"
    assert capsys.readouterr().err == ""


async def test_files_stand_behind_the_message_by_their_names(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    (bench.folder / "a.txt").write_text("A\n")
    (bench.folder / "b.txt").write_text("B")
    async with start_worker():
        code, _, said = await output(
            bench, "ask", "m", "Compare.", "--file", "a.txt", "--file", "b.txt", "--system", "Be brief."
        )
        assert code == 0, said
    told, asked = (await sent(queued)).messages
    assert (told.role, told.content) == ("system", "Be brief.")
    assert asked.content == "Compare.\n\na.txt:\n```\nA\n```\n\nb.txt:\n```\nB\n```"


async def test_how_it_is_answered_goes_on_the_wire(bench: Bench, start_worker: StartWorker, queued: Queued) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    (bench.folder / "schema.json").write_text(json.dumps(schema))
    async with start_worker():
        for form in ("schema.json", json.dumps(schema)):
            await output(bench, "ask", "m", "x", "--json-schema", form, "--priority", "batch", "--deadline", "60")
            message = await queued.one()
            turn = codec.decode(message.data, Turn)
            assert turn.sampling.json_schema == schema
            assert turn.deadline is not None
            assert 0 < turn.deadline - time.time() < 61
            assert ".batch." in message.subject


async def test_an_answer_that_has_not_ended_by_its_deadline_fails(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(answer="x" * 4000, token_seconds=0.02)):
        code, _, said = await output(bench, "ask", "m", "x", "--deadline", "1", "--max-tokens", "4000")
    assert code == 1
    assert "turnpike: deadline" in said


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["x", "--file", "nowhere.txt"], "--file: nowhere.txt: No such file or directory"),
        (["x", "--file", "binary"], "--file: binary: is no text in UTF-8"),
        (["x", "--json-schema", "{"], "--json-schema: is not JSON"),
        (["x", "--json-schema", "nowhere.json"], "--json-schema: nowhere.json: No such file"),
        (["x", "--priority", "urgent"], "--priority: 'urgent' is none of interactive, batch"),
        (["x", "--deadline", "0"], "--deadline: must be above 0"),
        (["x", "--raw", "--system", "y"], "--raw: the text is the prompt itself"),
        ([], "TEXT is empty: what is to be asked?"),
        (["-", "--file", "-"], "-: standard input can be read once"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_asked_is_one_sentence(
    words: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary").write_bytes(b"\xff\xfe\x00")
    Path("nothing").touch()
    with Path("nothing").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["ask", "m", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"turnpike: {problem}")
    assert len(said.splitlines()) == 1


async def test_a_context_that_is_too_small_is_explained(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(num_ctx=64)):
        _, _, said = await output(bench, "ask", "m", "x" * 200)
    assert "[the conversation is longer than the model's context: ask less, or start its worker with" in said


async def test_whoever_waits_for_a_pipe_that_nobody_writes_to_is_told(bench: Bench, start_worker: StartWorker) -> None:
    login = ["--credentials", bench.credentials("local")]
    async with start_worker():
        process = await asyncio.create_subprocess_exec(
            *TURNPIKE, "ask", "m", "hello", "--file", "-", *login,
            stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        assert process.stdin is not None
        told = await asyncio.wait_for(process.stderr.readline(), 60)
        assert told == b"[reading standard input up to its end]\n"
        process.stdin.close()
        out, _ = await process.communicate()
    assert re.match(rb"echo hello", out)
