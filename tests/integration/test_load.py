"""The load generator against a real server and a worker without a model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from broker.accounts import LOCAL, write_credentials
from broker.client import Client
from broker.discovery import RAW, SCORE
from broker.messages import Message
from broker.server import EmbeddedServer
from producers.data.datasets import SHIPPED, Conversation
from producers.evaluate.items import EvalError, Item
from producers.evaluate.run import CHOICE, run_on
from producers.load.generator import Progress
from producers.load.run import header, run_load
from producers.load.selection import Selection
from producers.records.files import Recording, read_run
from producers.settings import LoadSettings
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import TURNPIKE, eventually


def conversations(count: int, num_turns: int = 3) -> list[Conversation]:
    return [
        Conversation(f"c{number}", tuple(Message("user", f"hello {index}") for index in range(num_turns)))
        for number in range(count)
    ]


async def test_an_open_loop_sends_when_it_should(client: Client, start_worker: StartWorker) -> None:
    options = LoadSettings(model="m", arrivals="constant:50", num_turns=40)
    async with start_worker():
        found = await run_load(client, options, conversations(10))
    found.sort(key=lambda turn: turn.number)
    assert [turn.number for turn in found] == list(range(40))
    assert [turn.scheduled_at for turn in found] == [number / 50 for number in range(40)]
    assert all(turn.scheduled_at is not None and turn.sent_at >= turn.scheduled_at for turn in found)
    assert all(turn.scheduled_ttft_seconds >= (turn.ttft_seconds or 0) for turn in found if turn.scheduled_ttft_seconds)
    # Turns follow their histories, and conversations go on.
    assert max(turn.index for turn in found) > 0
    for number in {turn.conversation for turn in found}:
        indices = [turn.index for turn in found if turn.conversation == number]
        assert indices == list(range(len(indices)))
    assert {turn.worker for turn in found} == {"w1"}
    assert {turn.node for turn in found} == {"unknown"}


async def test_raw_prompts_are_a_conversations_texts_without_the_template(
    client: Client, start_worker: StartWorker
) -> None:
    options = LoadSettings(model="m", num_turns=2, concurrency=1, raw=True)
    async with start_worker(can=(RAW, SCORE)):
        found = await run_load(client, options, conversations(1, 2))
    first, second = sorted(found, key=lambda turn: turn.number)
    assert first.prompt_tokens == 1 + len("hello 0\n\n")
    assert second.prompt_tokens == 1 + len("hello 0\n\necho hello 0\n\nhello 1\n\n")


async def test_an_open_loop_does_not_wait_for_answers(client: Client, start_worker: StartWorker) -> None:
    engine = FakeEngine(step_seconds=0.0)
    engine.gate.clear()
    async with start_worker(engine):
        progress = Progress()
        options = LoadSettings(model="m", arrivals="constant:100", num_turns=30)
        running = asyncio.create_task(run_load(client, options, conversations(30), progress=progress))
        await eventually(lambda: len(progress.active) == 30)
        engine.gate.set()
        found = await running
    assert len({turn.conversation for turn in found}) == 30, "none was ready, so each turn began a conversation"


async def test_parts_of_a_run_send_each_turn_once(client: Client, start_worker: StartWorker) -> None:
    async with start_worker():
        both = [
            await run_load(
                client,
                LoadSettings(model="m", arrivals="poisson:200", num_turns=40, part=part, num_parts=2),
                conversations(8),
            )
            for part in (0, 1)
        ]
    numbers = [{turn.number for turn in found} for found in both]
    assert numbers[0] | numbers[1] == set(range(40))
    assert not numbers[0] & numbers[1]
    keys = [{turn.conversation for turn in found} for found in both]
    assert not keys[0] & keys[1]


async def test_some_turns_are_cancelled_and_some_have_deadlines(client: Client, start_worker: StartWorker) -> None:
    options = LoadSettings(
        model="m",
        arrivals="constant:40",
        num_turns=60,
        cancel_share=0.3,
        cancel_after_seconds=0.05,
        deadline_share=0.3,
        deadline_seconds=0.3,
        priority="interactive=1,batch=1",
    )
    async with start_worker(FakeEngine(step_seconds=0.02)):
        found = await run_load(client, options, conversations(60))
    outcomes = [turn.outcome for turn in found]
    assert 5 <= outcomes.count("cancelled") <= 30
    assert set(outcomes) <= {"stop", "cancelled", "deadline", "overloaded"}
    assert {turn.priority for turn in found} == {"interactive", "batch"}
    assert len(found) == 60


async def test_users_think_before_they_go_on(client: Client, start_worker: StartWorker) -> None:
    async with start_worker():
        options = LoadSettings(model="m", think="fixed:0.2", concurrency=2)
        found = await run_load(client, options, conversations(2))
    for number in (0, 1):
        turns = [turn for turn in found if turn.conversation == number]
        assert all(later.sent_at - earlier.ended_at >= 0.2 for earlier, later in pairwise(turns))


async def test_a_sweep_finds_where_goodput_falls(client: Client, start_worker: StartWorker) -> None:
    """Four slots, and an answer takes about 0.1 s: 40 turns a second are too many, a few are not."""
    options = LoadSettings(model="m", sweep="5:1.5", slo_ttft_seconds=0.5)
    async with start_worker(FakeEngine(step_seconds=0.01, answer="123456789")):
        found = await run_load(client, options, conversations(50))
    levels = sorted({turn.level for turn in found if turn.level is not None})
    assert levels[:2] == [5.0, 10.0]
    assert len(levels) >= 4
    assert max(levels) >= 20


async def test_an_interrupted_run_goes_on_with_its_record(
    nats_server: EmbeddedServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    credentials, path = tmp_path / "local.credentials", tmp_path / "run.jsonl"
    write_credentials(credentials, nats_server.address(LOCAL))
    command = [*TURNPIKE, "load", "--credentials", str(credentials)]
    flags = [
        "--model",
        "m",
        "--out",
        str(path),
        "--num-conversations",
        "12",
        "--max-tokens",
        "30",
        "--concurrency",
        "2",
    ]
    async with start_worker(FakeEngine(step_seconds=0.002)):
        process = await asyncio.create_subprocess_exec(*command, *flags, stderr=subprocess.DEVNULL)
        await eventually(lambda: path.exists() and path.read_bytes().count(b"\n") >= 6)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        before = read_run(path)
        assert before.seconds is None
        again = await asyncio.create_subprocess_exec(
            *command, "--continue", str(path), "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await again.communicate()
        assert again.returncode == 0, err.decode()
    run = read_run(path)
    assert run.seconds is not None
    assert json.loads(out)["num_turns"] == len(run.turns)
    turns = {(turn.conversation, turn.index) for turn in run.turns}
    assert len(turns) == len(run.turns), "no turn twice"
    assert {number for number, _ in turns} == set(range(12))
    kept = {turn.turn for turn in before.turns} & {turn.turn for turn in run.turns}
    assert kept, "what was whole was kept"
    assert run.header.settings["model"] == "m"
    assert "credentials" not in run.header.settings
    assert run.header.workers[0]["worker"] == "w1"
    refused = await asyncio.create_subprocess_exec(
        *command, "--continue", str(path), stderr=subprocess.PIPE, env=os.environ
    )
    _, err = await refused.communicate()
    assert (refused.returncode, b"nothing to go on with" in err) == (1, True)


async def test_a_record_has_what_it_takes_to_repeat_it(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    options = LoadSettings(model="m", run="r", num_conversations=2)
    async with start_worker():
        head = header(options, Selection(conversations(2), 50, SHIPPED), await client.workers())
        with Recording(tmp_path / "r.jsonl", head) as recording:
            await run_load(client, options, conversations(2), recording=recording)
    run = read_run(tmp_path / "r.jsonl")
    assert len(run.turns) == 6
    assert set(run.header.producer) >= {"turnpike", "python", "kernel"}
    assert run.header.dataset["num_found"] == 50
    assert len(run.header.dataset["chosen_sha256"]) == 64


@pytest.mark.parametrize(
    ("flags", "problems"),
    [
        (["--arrivals", "poisson:2"], ["never end"]),
        (["--arrivals", "often", "--think", "long"], ["--arrivals often", "--think long"]),
        (["--cancel-share", "2", "--part", "3", "--priority", "urgent"], ["cancel-share", "--part", "urgent"]),
        (["--sweep", "1:10"], ["what is good?"]),
        (["--model", "a=0"], ["'a=0' is not NAME"]),
    ],
)
def test_a_load_that_makes_no_sense_is_refused_with_every_reason(flags: list[str], problems: list[str]) -> None:
    found = subprocess.run([*TURNPIKE, "load", "--model", "m", *flags], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    for problem in problems:
        assert problem in found.stderr


async def test_an_evaluation_goes_on_where_it_was_interrupted(
    nats_server: EmbeddedServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    credentials, items, out = tmp_path / "local.credentials", tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    write_credentials(credentials, nats_server.address(LOCAL))
    lines = [
        {"sentence": f"Item {number} and _ too.", "option1": "this", "option2": "that", "answer": "1"}
        for number in range(12)
    ]
    too_long = {"context": "x" * 20_000, "choices": ["this", "that"], "label": 0}
    items.write_text("".join(json.dumps(line) + "\n" for line in [*lines, too_long, {"sentence": None}]))
    command = [*TURNPIKE, "eval", str(items), "--model", "m", "--credentials", str(credentials), "--out", str(out)]

    async def evaluated(*flags: str) -> tuple[str, str]:
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, *flags, stdout=pipe, stderr=pipe)
        said, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return said.decode(), errors.decode()

    async with start_worker():
        await evaluated("--limit", "5")
        out.write_bytes(out.read_bytes()[:-3])
        said, errors = await evaluated("--json")
    assert "13 items, 4 of them answered before" in errors
    assert "1 row is left out: items.jsonl:14: is no item" in errors
    assert "items that failed and are left out: 1, the first of them 13 by prompt_too_long" in errors
    found = json.loads(said)
    assert {one["method"]: one["count"] for one in found["accuracies"]} == {"partial": 12, "llama.cpp": 12}
    assert len(out.read_text().splitlines()) == 12


@pytest.mark.parametrize("other", ["items", "name", "file"])
async def test_answers_to_other_items_or_of_another_model_are_not_gone_on_with(
    client: Client, nats_server: EmbeddedServer, start_worker: StartWorker, tmp_path: Path, other: str
) -> None:
    out, stop = tmp_path / "out.jsonl", asyncio.Event()
    items = [Item(number, f"The fan {number} is", (" loud", " green"), 0) for number in range(3)]
    async with start_worker():
        # One after the other: they are kept in the order in which they end.
        first = await run_on(client, "m", items[:2], CHOICE, out, stop, concurrency=1)
        whole = await run_on(client, "m", items, CHOICE, out, stop)
    assert [one.number for one in whole] == [0, 1, 2]
    assert whole[:2] == first
    before = out.read_bytes()
    model = "n" if other == "name" else "m"
    await nats_server.ensure([model])
    if other == "items":
        items[1] = Item(1, "The mast is", (" loud", " green"), 0)
    async with start_worker(model=model, fingerprint="f" if other != "file" else "g"):
        with pytest.raises(EvalError, match=r"out\.jsonl:\d: is of another"):
            await run_on(client, model, items, CHOICE, out, stop)
    assert out.read_bytes() == before
