"""Commands at a terminal: nobody is held by a queue that nobody serves, and what is said is true."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from broker import codec
from broker.accounts import LOCAL, OPERATOR, REAPER
from broker.client import Client
from broker.connection import close, connect
from broker.discovery import RAW, SCORE
from broker.messages import Failed, Turn
from broker.reaper import Reaper
from broker.replies import write_end
from broker.subjects import TurnAddress
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.terminal import INTERRUPTED, ITEM, PLAN, Bench, Queued, output

# --- Nobody serves the model ---


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "m", "hello"),
        ("chat", "m"),
        ("load", "--model", "m"),
        ("eval", "--model", "m", "items.jsonl"),
        ("experiment", "plan.toml", "--out", "out"),
    ],
    ids=lambda arguments: arguments[0],
)
async def test_it_is_said_at_once_that_nobody_serves_a_model(bench: Bench, arguments: tuple[str, ...]) -> None:
    (bench.folder / "items.jsonl").write_text(ITEM)
    (bench.folder / "plan.toml").write_text(PLAN)
    code, _, said = await output(bench, *arguments)
    assert code == 1
    assert "turnpike: nobody serves model 'm' just now: no worker of it answers" in said
    assert "--wait-seconds" in said


async def test_a_worker_is_waited_for_where_that_was_asked_for(bench: Bench, start_worker: StartWorker) -> None:
    async with bench.command("ask", "m", "hello", "--wait-seconds", "60") as asked:
        await asked.until_it_says("nobody serves m yet: waiting up to 60 s")
        async with start_worker():
            assert await asked.ends() == 0
            await asked.until_it_says("echo hello") if "echo hello" not in asked.said else None
    assert "[stop: " in asked.said


@pytest.mark.parametrize(
    "arguments", [("ask", "auto", "hello"), ("chat", "auto"), ("load", "--model", "auto")], ids=lambda words: words[0]
)
async def test_it_is_said_at_once_that_nobody_serves_any_model(bench: Bench, arguments: tuple[str, ...]) -> None:
    code, _, said = await output(bench, *arguments)
    assert code == 1
    assert "turnpike: no worker answers that 'auto' could choose" in said
    assert "--wait-seconds" in said


async def test_nobody_to_choose_from_is_json_too(bench: Bench) -> None:
    code, out, _ = await output(bench, "ask", "auto", "hello", "--json")
    assert (code, json.loads(out)["code"]) == (1, "not_published")


async def test_a_policy_waits_for_a_worker_where_that_was_asked_for(bench: Bench, start_worker: StartWorker) -> None:
    waits = "nobody serves a model for auto yet: waiting up to 60 s"
    async with bench.command("ask", "auto", "hello", "--wait-seconds", "60") as asked:
        await asked.until_it_says(waits)
        async with start_worker():
            assert await asked.ends() == 0
    assert "[stop: " in asked.said
    async with bench.command("ask", "auto", "hello", "--wait-seconds", "60") as asked:
        await asked.until_it_says(waits)
        assert await asked.interrupted() == INTERRUPTED


async def test_a_turn_that_lost_its_worker_says_so_and_is_stopped(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        running.engine.gate.clear()
        async with bench.command("ask", "m", "hello") as asked:
            await queued.one()
            running.task.cancel()
            running.engine.gate.set()
            await asyncio.wait({running.task})
            await close(running.nc)
            await asked.until_it_says("nobody serves m just now: the turn waits for a worker; ^C stops it")
            assert await asked.interrupted() == INTERRUPTED


# --- What is said ---


async def test_a_failed_turn_is_json_too(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(FakeEngine(num_ctx=64)):
        code, out, said = await output(bench, "ask", "m", "x" * 200, "--json")
    assert code == 1
    failed = json.loads(out)
    assert (failed["type"], failed["code"]) == ("failed", "prompt_too_long")
    assert said.startswith("turnpike: prompt_too_long")


async def test_an_error_begins_a_line_of_its_own(bench: Bench, start_worker: StartWorker, queued: Queued) -> None:
    engine = FakeEngine(answer="x" * 4000, token_seconds=0.02)
    async with start_worker(engine), bench.terminal("ask", "m", "hello", "--max-tokens", "4000") as asked:
        turn = (await queued.one()).subject.rpartition(".")[2]
        await asked.until_it_says("xxx")
        failed = Failed("deadline", "somebody ended it")
        assert await write_end(queued.nc, TurnAddress("m", "interactive", LOCAL, turn), failed)
        assert await asked.ends() == 1
    assert re.search(r"x\r?\nturnpike: deadline: somebody ended it", asked.said)


async def test_each_turn_is_drawn_with_a_seed_of_its_own_which_is_shown(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async def seed_of_next() -> int:
        return int(codec.decode((await queued.one()).data, Turn).sampling.seed)

    async with start_worker():
        seeds = []
        for _ in range(2):
            _, _, said = await output(bench, "ask", "m", "hello", "--temperature", "1")
            seeds.append(await seed_of_next())
            assert f"; seed {seeds[-1]}]" in said
        _, out, _ = await output(bench, "ask", "m", "hello", "--temperature", "1", "--json")
        seeds.append(await seed_of_next())
        assert json.loads(out)["seed"] == seeds[-1]
        await output(bench, "chat", "m", "--temperature", "1", stdin=b"one\ntwo\n")
        seeds += [await seed_of_next(), await seed_of_next()]
        assert len(set(seeds)) == 5, "no two alike"
        for arguments in (("--temperature", "1", "--seed", "7"), ("--seed", "7")):
            await output(bench, "ask", "m", "hello", *arguments)
            assert await seed_of_next() == 7
        _, _, said = await output(bench, "ask", "m", "hello")
        assert await seed_of_next() == 0
        assert "seed" not in said, "nothing was drawn"


async def test_a_token_alone_has_no_rate(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker():
        _, _, said = await output(bench, "ask", "m", "hello", "--max-tokens", "1")
    assert re.search(r"; 1 token; waited", said)


async def test_a_cancel_says_what_it_did(bench: Bench, start_worker: StartWorker, queued: Queued) -> None:
    code, out, _ = await output(bench, "cancel", "--all")
    assert (code, out) == (0, "nothing to cancel: no turn is queued or running\n")
    reaper_nc = await connect(bench.server.address(REAPER), name="reaper")
    stop = asyncio.Event()
    reaping = asyncio.create_task(Reaper(reaper_nc).run(stop))
    async with Client(bench.server.address(LOCAL)) as client:
        answers = [client.ask("m", str(number), conversation="c") for number in range(3)]
        for answer in answers:
            await answer.publish()
        code, out, _ = await output(bench, "cancel", "--turn", answers[0].turn.id)
        assert f"turn {answers[0].turn.id}: cancelled in the queue" in out
        code, out, _ = await output(bench, "cancel", "--conversation", "c")
        assert "2 turns ended: 2 in the queue, 0 that ran" in out
        code, out, _ = await output(bench, "cancel", "--turn", answers[0].turn.id)
        assert "had ended before: cancelled in the queue" in out
    stop.set()
    await reaping
    await close(reaper_nc)


async def test_top_shows_queues_without_workers_in_red(bench: Bench) -> None:
    async with bench.terminal("top") as top:
        await top.until_it_says("no worker answers")
    assert re.search(r"\x1b\[31m.*m .*none", top.said), top.said
    code, out, _ = await output(bench, "top", "--json")
    assert code == 1
    assert [queue["model"] for queue in json.loads(out)["queues"]] == ["m"]


async def test_an_empty_list_of_dead_letters_is_said(bench: Bench) -> None:
    code, _, said = await output(bench, "dead", "list", user=OPERATOR)
    assert (code, said) == (0, "no turn was given up on\n")


async def test_a_raw_prompt_is_asked_as_it_stands(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(can=(RAW, SCORE)):
        for model in ("m", "auto"):
            code, out, _ = await output(bench, "ask", model, "alone", "--raw", "--json")
            assert (code, json.loads(out)["usage"]["prompt_tokens"]) == (0, 1 + len("alone"))
        code, _, said = await output(bench, "ask", "auto", "alone")
    assert (code, "lack chat" in said) == (1, True)
