"""Commands at a terminal: nobody is held by a queue that nobody serves, and ^C ends each of them at once."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg

from broker.accounts import LOCAL, write_credentials
from broker.connection import close
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import TURNPIKE

INTERRUPTED = 130
AT_ONCE_SECONDS = 2.0
"""A second is what is meant; the machine may be busy."""


@dataclass
class Command:
    """A command as it runs, with what it has said so far. On a terminal both outputs are one."""

    process: asyncio.subprocess.Process
    said: str = ""
    _terminal: int | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, data: bytes) -> None:
        self.said += data.decode("utf-8", "replace")
        self._changed.set()

    async def until_it_says(self, text: str, behind: int = 0) -> None:
        async with asyncio.timeout(60):
            while text not in self.said[behind:]:
                assert self.process.returncode is None, self.said
                self._changed.clear()
                await self._changed.wait()

    def type(self, text: str) -> None:
        assert self._terminal is not None
        os.write(self._terminal, text.encode())

    async def ends(self, within: float = 60) -> int:
        return await asyncio.wait_for(self.process.wait(), within)

    async def interrupted(self) -> int:
        """The exit code after one ^C."""
        started = time.perf_counter()
        if self._terminal is not None:
            self.type("\x03")
        else:
            self.process.send_signal(signal.SIGINT)
        code = await self.ends()
        assert time.perf_counter() - started < AT_ONCE_SECONDS, self.said
        return code


@dataclass
class Bench:
    """A server's accounts in files, and a way to start commands there."""

    server: EmbeddedServer
    folder: Path

    def credentials(self, user: str) -> str:
        path = self.folder / f"{user}.credentials"
        write_credentials(path, self.server.address(user))
        return str(path)

    @asynccontextmanager
    async def command(self, *arguments: str, user: str = LOCAL) -> AsyncIterator[Command]:
        """With pipes."""
        login = ["--credentials", self.credentials(user)]
        async with started([*arguments, *login], self.folder) as command:
            yield command

    @asynccontextmanager
    async def terminal(self, *arguments: str) -> AsyncIterator[Command]:
        """On a terminal of its own, where ^C is a key."""
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *TURNPIKE,
            *arguments,
            "--credentials",
            self.credentials(LOCAL),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=lambda: (os.setsid(), _take_terminal()),
        )
        os.close(theirs)
        command = Command(process, _terminal=ours)
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other side is closed
                data = b""
            if data:
                command.take(data)
            else:
                loop.remove_reader(ours)
                command._changed.set()

        loop.add_reader(ours, read)
        try:
            yield command
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            loop.remove_reader(ours)
            os.close(ours)


def _take_terminal() -> None:
    """Its standard input becomes a session's own terminal, or ^C would be nobody's."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@asynccontextmanager
async def started(arguments: list[str], folder: Path) -> AsyncIterator[Command]:
    process = await asyncio.create_subprocess_exec(
        *TURNPIKE,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
    )
    command = Command(process)

    async def read(stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while data := await stream.read(65536):
            command.take(data)
        command._changed.set()

    async with asyncio.TaskGroup() as readers:
        readers.create_task(read(process.stdout))
        readers.create_task(read(process.stderr))
        try:
            yield command
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def output(bench: Bench, *arguments: str, user: str = LOCAL, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *TURNPIKE,
        *arguments,
        "--credentials",
        bench.credentials(user),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=bench.folder,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
def bench(nats_server: EmbeddedServer, tmp_path: Path) -> Bench:
    return Bench(nats_server, tmp_path)


class Queued:
    """Hears every turn that is queued."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._turns: asyncio.Queue[Msg] = asyncio.Queue(maxsize=100)

    async def listen(self) -> None:
        await self._nc.subscribe("turn.>", cb=self._turns.put)
        await self._nc.flush()

    async def one(self) -> Msg:
        return await asyncio.wait_for(self._turns.get(), 60)


@pytest.fixture
async def queued(operator: NatsConnection) -> Queued:
    found = Queued(operator)
    await found.listen()
    return found


ITEM = json.dumps({"context": "The fan is", "choices": [" loud", " green"], "label": 0}) + "\n"
PLAN = 'name = "p"\n[[models]]\nmodel = "m"\n'


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
    assert "[cancelled: " in asked.said


async def test_an_interrupted_eval_tells_what_it_has(bench: Bench, start_worker: StartWorker, queued: Queued) -> None:
    (bench.folder / "items.jsonl").write_text(ITEM * 2000)
    evaluated = bench.command("eval", "--model", "m", "items.jsonl", "--concurrency", "1", "--json")
    async with start_worker(FakeEngine(step_seconds=0.05)), evaluated as command:
        for _ in range(3):
            await queued.one()
        assert await command.interrupted() == INTERRUPTED
    assert re.search(r"interrupted: \d+ of 2000 items answered", command.said)


# --- A chat ---


async def test_a_chat_goes_on_after_an_interrupt_and_ends_at_the_prompt(
    bench: Bench, start_worker: StartWorker, queued: Queued
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running, bench.terminal("chat", "m") as chat:
        await chat.until_it_says("> ")
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
        assert await chat.interrupted() == INTERRUPTED


async def test_an_end_of_input_leaves_a_chat_whose_turn_waits(
    bench: Bench, start_worker: StartWorker, queued: Queued, operator: NatsConnection
) -> None:
    async with start_worker(FakeEngine(num_slots=1)) as running, bench.terminal("chat", "m") as chat:
        await chat.until_it_says("> ")
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
        await chat.until_it_says("> ")
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
        await chat.until_it_says("> ")
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
        await chat.until_it_says("> ")
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
