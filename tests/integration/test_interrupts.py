"""^C ends each command at once, whatever it waits for."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest

from broker.client import Client
from broker.messages import Chunk, Done, Sampling
from broker.messages.boards import LOADING
from broker.model_status import LOADED, ModelStatus
from producers.terminal.following import Following
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.terminal import INTERRUPTED, ITEM, PLAN, Bench, Queued, started

# --- ^C ---


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "m", "hello"),
        ("load", "--model", "m"),
        ("load", "--model", "m", "--arrivals", "constant:50", "--duration-seconds", "60"),
        ("load", "--model", "m", "--sweep", "50:60", "--slo-ttft-seconds", "2"),
        ("eval", "--model", "m", "items.jsonl"),
        ("experiment", "plan.toml", "--out", "out"),
    ],
    ids=" ".join,
)
async def test_an_interrupt_ends_what_waits_for_answers(
    bench: Bench, start_worker: StartWorker, queued: Queued, arguments: tuple[str, ...]
) -> None:
    (bench.folder / "items.jsonl").write_text(ITEM)
    (bench.folder / "plan.toml").write_text(PLAN)
    async with start_worker(FakeEngine(num_slots=1)) as running:
        running.engine.gate.clear()
        async with bench.command(*arguments) as command:
            await queued.one()
            assert await command.interrupted() == INTERRUPTED
            assert "Traceback" not in command.said


@pytest.mark.parametrize("arguments", [("ask", "m", "hello"), ("chat", "m"), ("load", "--model", "m"), ("top",)])
async def test_an_interrupt_ends_what_waits_for_a_worker_or_looks(bench: Bench, arguments: tuple[str, ...]) -> None:
    async with bench.terminal(*arguments, "--wait-seconds", "60") as command:
        await command.until_it_says("queues" if arguments == ("top",) else "nobody serves m yet")
        code = await command.interrupted()
    assert code == (1 if arguments == ("top",) else INTERRUPTED)
    assert "Traceback" not in command.said


@pytest.mark.parametrize("arguments", [("ask", "m", "hello"), ("chat", "m"), ("top",), ("cancel", "--all")])
async def test_an_interrupt_ends_what_waits_for_a_server(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        url = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        async with started([*arguments, "--url", url, "--wait-seconds", "60"], tmp_path) as command:
            caller, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(silent), 60)
            assert await command.interrupted() == INTERRUPTED
            caller.close()
            assert "Traceback" not in command.said


async def test_an_interrupt_ends_what_the_server_has_left_alone(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running:
        running.engine.gate.clear()
        async with bench.command("ask", "m", "hello") as asked:
            await queued.one()
            await bench.server.kill()
            assert await asked.interrupted() == INTERRUPTED
        await bench.server.start()


async def test_an_interrupt_stops_a_streaming_answer_and_keeps_what_came(
    bench: Bench, start_worker: StartWorker
) -> None:
    engine = FakeEngine(answer="x" * 4000, token_seconds=0.02)
    async with start_worker(engine), bench.command("ask", "m", "hello", "--max-tokens", "4000") as asked:
        await asked.until_it_says("xxx")
        assert await asked.interrupted() == INTERRUPTED
    # The end is there or not by the time that a person at a terminal may be kept waiting.
    assert re.search(r"\[(cancelled: |stopped: its end has not come yet)", asked.said), asked.said[-200:]


async def test_a_turn_that_is_stopped_ends_as_cancelled(client: Client, start_worker: StartWorker) -> None:
    stop = asyncio.Event()

    def stop_it(_: Chunk) -> None:
        stop.set()

    async with start_worker(FakeEngine(answer="x" * 4000, token_seconds=0.02)):
        answer = client.ask("m", "hello", sampling=Sampling(max_tokens=4000))
        following = Following(client, answer, stop_it, print, stop_seconds=30)
        await asyncio.wait_for(following.until(stop), 60)
    assert following.was_stopped
    assert isinstance(answer.end, Done)
    assert answer.end.finish_reason == "cancelled"
    assert 0 < answer.end.usage.completion_tokens < 4000


async def test_what_a_turn_waits_for_is_not_told_between_its_tokens(client: Client, start_worker: StartWorker) -> None:
    said: list[str] = []
    loaded = asyncio.Event()

    async def tell(following: Following) -> None:
        await following._tell_status(ModelStatus("m", LOADED))
        loaded.set()

    async with start_worker(FakeEngine(answer="x" * 40)), asyncio.TaskGroup() as group:
        answer = client.ask("m", "hello", sampling=Sampling(max_tokens=40))
        following = Following(client, answer, lambda _: group.create_task(tell(following)), said.append)
        await following._tell_status(ModelStatus("m", LOADING, 3.0))
        assert [line.split(";")[0] for line in said] == ["m: loading, about 3 s"], "before there is any"
        await asyncio.wait_for(following.until(asyncio.Event()), 60)
        await loaded.wait()
    assert len(said) == 1


async def test_an_interrupted_eval_tells_what_it_has(bench: Bench, start_worker: StartWorker, queued: Queued) -> None:
    (bench.folder / "items.jsonl").write_text(ITEM * 2000)
    evaluated = bench.command("eval", "--model", "m", "items.jsonl", "--concurrency", "1", "--json")
    async with start_worker(FakeEngine(step_seconds=0.05)), evaluated as command:
        for _ in range(3):
            await queued.one()
        assert await command.interrupted() == INTERRUPTED
    assert re.search(r"interrupted: \d+ of 2000 items answered", command.said)
