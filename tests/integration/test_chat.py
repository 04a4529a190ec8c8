"""A chat at a terminal: what it survives, and how it is left."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import time

import pytest
from nats.aio.client import Client as NatsConnection

from broker import process
from broker.accounts import LOCAL
from producers.chat.conversation import Conversation
from producers.commands.chat import Chat
from producers.terminal.keyboard import Keyboard
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.terminal import AT_ONCE_SECONDS, INTERRUPTED, Bench, Queued

# --- A chat ---


async def test_a_chat_goes_on_after_an_interrupt_and_ends_at_the_prompt(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running, bench.terminal("chat", "m") as chat:
        await chat.until_it_prompts()
        running.engine.gate.clear()
        chat.type("first\n")
        await queued.one()
        began = time.perf_counter()
        chat.type("\x03")
        await chat.until_it_says("]")  # its end, or that it has not come yet
        assert time.perf_counter() - began < AT_ONCE_SECONDS
        running.engine.gate.set()
        chat.type("second\n")
        await chat.until_it_says("echo second")
        await chat.until_it_says("[stop: ")
        assert await chat.leaves() == INTERRUPTED


class Typed(Keyboard):
    """A terminal's, at which these lines were typed."""

    def __init__(self, *lines: str) -> None:
        self.lines = asyncio.Queue()
        self.ended = asyncio.Event()
        self.is_a_terminal = True
        for line in lines:
            self.lines.put_nowait(line)


class Pressing(io.StringIO):
    """A terminal at which ^C is pressed the moment that an answer's end is shown, and at the prompt behind it."""

    def write(self, text: str) -> int:
        is_prompt_behind = text == "> " and "[stop: " in self.getvalue()
        if "[stop: " in text or is_prompt_behind:
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        return super().write(text)


def test_an_interrupt_between_an_answers_end_and_the_prompt_is_the_prompts(
    bench: Bench, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(stop: asyncio.Event) -> int:
        async with start_worker():
            return await Chat(bench.server.address(LOCAL), Conversation("m"), Typed("hello"), stop).run()

    monkeypatch.setattr(sys, "stderr", Pressing())
    assert process.run(main) == INTERRUPTED


async def test_an_end_of_input_leaves_a_chat_whose_turn_waits(
    bench: Bench, start_worker: StartWorker, queued: Queued, operator: NatsConnection
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running, bench.terminal("chat", "m") as chat:
        await chat.until_it_prompts()
        running.engine.gate.clear()
        async with bench.command("ask", "m", "fills the slot"):
            await queued.one()
            assert await asyncio.to_thread(running.engine.entered.wait, 30)
            chat.type("waits\n")
            await queued.one()
            began = time.perf_counter()
            chat.type("\x04")
            assert await chat.ends() == 0
            assert time.perf_counter() - began < AT_ONCE_SECONDS + 1
        running.engine.gate.set()


async def test_an_answer_under_way_is_finished_after_an_end_of_input(bench: Bench, start_worker: StartWorker) -> None:
    engine = FakeEngine(answer="a" * 100 + "z", token_seconds=0.02)
    async with start_worker(engine), bench.terminal("chat", "m") as chat:
        await chat.until_it_prompts()
        chat.type("go on\n")
        await chat.until_it_says("aaa")
        chat.type("\x04")
        assert await chat.ends() == 0
    assert "az" in chat.said


async def test_a_chat_survives_a_full_queue_and_remembers(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    from broker.topology import Limits

    async with start_worker() as running, bench.terminal("chat", "m") as chat:
        await chat.until_it_prompts()
        chat.type("the first message\n")
        await chat.until_it_says("echo the first message")
        await chat.until_it_says("[stop: ")
        await queued.one()
        await bench.server.ensure(["m"], Limits(max_queued_turns=1))
        running.engine.gate.clear()
        async with bench.command("ask", "m", "in the way"):
            await queued.one()
            chat.type("refused\n")
            await chat.until_it_says("is full")
            await chat.until_it_says("the conversation is kept without this message")
            running.engine.gate.set()
        await bench.server.ensure(["m"], Limits())
        chat.type("the second message\n")
        await chat.until_it_says("echo the second message")
        chat.type("\x04")
        assert await chat.ends() == 0
    prompts = [
        "".join(running.engine.vocabulary.piece(token).decode() for token in cells) for cells in running.engine.cells
    ]
    assert any("the first message" in prompt and "the second message" in prompt for prompt in prompts), prompts


async def test_a_chat_survives_its_servers_restart_in_the_middle(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(), bench.terminal("chat", "m") as chat:
        await chat.until_it_prompts()
        chat.type("before\n")
        await chat.until_it_says("[stop: ")
        port = int(bench.server.url.rpartition(":")[2])
        await bench.server.kill()
        chat.type("while it is away\n")
        await chat.until_it_says("the conversation is kept without this message")
        bench.server._port = port
        await bench.server.start()
        for _ in range(20):
            mark = len(chat.said)
            chat.type("after\n")
            await chat.until_it_says("]", behind=mark)
            if "echo after" in chat.said[mark:]:
                break
        assert "echo after" in chat.said
        chat.type("\x04")
        assert await chat.ends() == 0
