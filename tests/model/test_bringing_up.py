"""What a chat starts for itself: a broker, workers, and nothing that is left behind."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from broker.accounts import DEFAULTS, LOCAL, OPERATOR, WORKER, write_credentials
from broker.client import Client
from broker.server import EmbeddedServer
from producers.bringing_up import ForTheWhile, LocalModel
from tests.model.test_commands import OF_TESTS, run, worker
from tests.support import ROOT, eventually
from tests.terminal import INTERRUPTED, on_a_terminal
from workers.models import DEMO


def environment(folder: Path) -> dict[str, str]:
    """One in which no broker was named, and what is started leaves its traces in `folder`."""
    return {**OF_TESTS, "TMPDIR": str(folder), "TURNPIKE_CONFIG": "", "TURNPIKE_DATA_DIR": str(folder / "data")}


def left_in(folder: Path) -> list[str]:
    """Temporary folders of systems that are no more."""
    return [one.name for one in folder.iterdir() if one.name.startswith("turnpike-")]


def test_a_file_is_talked_to_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "My.Model-Q4.gguf"
    path.symlink_to(DEMO.path)
    found = run("chat", str(path), environment=environment(tmp_path), stdin="My name is Torvik.\nWhat is my name?\n")
    assert found.stdout.splitlines()[-1] == "Your name is Torvik.", found.stderr
    said = found.stderr.splitlines()
    assert said[0] == "no broker runs here: starting one for the while, and a worker of My_Model-Q4"
    assert said[1] == "talking to My_Model-Q4; ^C stops an answer"
    assert left_in(tmp_path) == []


def test_a_name_that_is_locked_is_talked_to_and_one_that_is_not_here_is_told_how_it_is_had(tmp_path: Path) -> None:
    where = ["--lock-file", str(tmp_path / "lock"), "--models-dir", str(tmp_path / "models")]
    where += ["--catalogue", str(tmp_path / "own.toml")]
    added = run("models", "add", str(DEMO.path), "--name", "mine", *where, environment=environment(tmp_path))
    assert added.returncode == 0, added.stderr
    asked = run("ask", "mine", "How do I drain a node?", *where, environment=environment(tmp_path))
    assert asked.stdout.startswith("First stop new turns."), asked.stderr
    (file,) = (tmp_path / "models").glob("mine-*")
    file.unlink()
    for name, command in (("mine", "`turnpike models pull mine`"), ("qwen2-5-0-5b", "models lock qwen2-5-0-5b`")):
        missing = run("chat", name, *where, environment=environment(tmp_path))
        assert (missing.returncode, command in missing.stderr) == (1, True), missing.stderr
    unknown = run("chat", "nobody", *where, environment=environment(tmp_path))
    assert unknown.stderr.startswith("no model of this machine is called nobody: `turnpike models list`")
    assert "no NATS server answers" in unknown.stderr
    broken = run("chat", str(tmp_path / "lock.gguf"), environment=environment(tmp_path))
    assert (broken.returncode, "lock.gguf" in broken.stderr) == (1, True), broken.stderr
    assert left_in(tmp_path) == []


async def test_a_broker_that_is_there_is_used_and_a_worker_started_only_where_nobody_serves(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    async with EmbeddedServer(tmp_path / "server") as server:
        for user, _ in DEFAULTS:
            write_credentials(tmp_path / "data" / f"{user}.credentials", server.address(user))
        found = await asyncio.to_thread(run, "ask", "demo", "How do I drain a node?", environment=environment(tmp_path))
        assert found.stderr.startswith("nobody serves demo: starting a worker of demo for the while"), found.stderr
        assert found.stdout.startswith("First stop new turns.")
        await server.ensure(["m"])
        async with worker(server, DEMO.path):
            found = await asyncio.to_thread(
                run, "ask", "m", "How do I drain a node?", environment=environment(tmp_path)
            )
            assert "starting" not in found.stderr
            assert found.stdout.startswith("First stop new turns."), found.stderr
    assert left_in(tmp_path) == []


async def test_a_worker_that_dies_is_followed_by_another_one(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "server") as server:
        accounts = {user: server.address(user) for user in (LOCAL, OPERATOR, WORKER)}
        where, found = accounts[LOCAL], LocalModel("demo")
        async with (
            ForTheWhile(
                where, ROOT / "turnpike", find=lambda _: found, may_start=True, accounts=accounts, say=lambda _: None
            ) as own,
            Client(where) as client,
            asyncio.timeout(90),
        ):
            assert await own.serve("demo") == "demo"
            (first,) = await client.workers()
            os.kill(process_of(first.worker), signal.SIGKILL)
            while {one.worker for one in await client.workers()} <= {first.worker}:
                pass
    assert left_in(tmp_path) == []


def process_of(worker_name: str) -> int:
    """Whose command has that name in it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if f"\0{worker_name}\0".encode() in path.read_bytes():
                return int(path.parent.name)
    raise AssertionError(worker_name)


async def test_an_interrupt_while_a_model_loads_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    async with on_a_terminal(["chat", "demo"], environment(tmp_path)) as chat:
        await chat.until_it_says("loading demo")
        assert await chat.interrupted() == INTERRUPTED
        await eventually(lambda: not left_in(tmp_path), 5)
        assert "Traceback" not in chat.said


async def test_what_a_chat_starts_writes_nothing_into_its_terminal_and_no_colour_unasked_for(tmp_path: Path) -> None:
    async with on_a_terminal(["chat", "demo"], environment(tmp_path) | {"NO_COLOR": "1"}) as chat:
        await chat.until_it_prompts()
        mark = len(chat.said)
        chat.type("Hello. My name is Torvik and I am new here.\r")
        await chat.until_it_says("[stop: ")
        await chat.until_it_prompts()
        chat.type("half a line\x03")
        await chat.until_it_prompts()
        chat.type("\x04")
        assert await chat.ends() == 0
        assert "\x1b[90m" not in chat.said
        assert " I workers" not in chat.said[mark:]
        assert "Thank you" in chat.said
    assert left_in(tmp_path) == []


BOARD = """
import asyncio, sys
from workers.boards.child import Child
line = "12:00:00 I workers.turns.handler → turn=1\\n12:00:01 I workers.worker serving model=m\\n"
command = [sys.executable, "-c", f"import sys; sys.stdout.write({line!r})"]
async def main():
    child = await Child.start("m", command, {}, lambda: None)
    await child.run()
asyncio.run(main())
"""


@pytest.mark.parametrize("is_behind", [True, False])
def test_a_board_in_the_background_of_a_terminal_passes_no_lines_of_turns_on(is_behind: bool) -> None:
    shell = f"import subprocess,sys; subprocess.run([sys.executable, '-c', {BOARD!r}]"
    shell += ", process_group=0)" if is_behind else ")"
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-c", shell], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True,
        preexec_fn=lambda: _own_terminal(theirs),
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:
        pass
    os.close(ours)
    started.wait(60)
    assert b"m | 12:00:01 I workers.worker serving" in said, said
    assert (b"turn=1" in said) is not is_behind


def _own_terminal(fd: int) -> None:
    import fcntl
    import termios

    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
