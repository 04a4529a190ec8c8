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

from broker import codec
from broker.accounts import LOCAL, OPERATOR, REAPER, write_credentials
from broker.client import Client
from broker.connection import close, connect
from broker.messages import Failed, Turn
from broker.reaper import Reaper
from broker.replies import write_end
from broker.server import EmbeddedServer
from broker.subjects import TurnAddress
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
            start_new_session=True,
            preexec_fn=_take_terminal,
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
    """Of a new session: its standard input becomes the session's own, or ^C would be nobody's."""
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
        self.nc = nc
        self._turns: asyncio.Queue[Msg] = asyncio.Queue(maxsize=100)

    async def listen(self) -> None:
        await self.nc.subscribe("turn.>", cb=self._turns.put)
        await self.nc.flush()

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
