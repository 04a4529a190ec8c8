"""What a process of ours writes into a terminal, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker.process import EXIT_INTERRUPTED, EXIT_USAGE, spawn, terminate
from tests.support import ROOT, TURNPIKE

IN_TERMINAL = """
import logging, os
from broker.logs import set_up_logging
os.open(os.ttyname(2), os.O_RDWR)  # a session's leader: now it is its terminal
set_up_logging("INFO")
log = logging.getLogger("workers.worker")
log.info("→ turn=%s", "in-front")
if (child := os.fork()) == 0:
    os.setpgid(0, 0)
    log.info("serving model=%s", "behind")
    log.info("→ turn=%s", "behind")
    log.info("! turn=%s code=x", "behind")
    log.warning("! turn=%s", "warned-of")
    os._exit(0)
os.waitpid(child, 0)
"""


def test_a_worker_in_the_background_of_a_terminal_does_not_write_each_turn_into_it() -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen([sys.executable, "-c", IN_TERMINAL], stderr=theirs, start_new_session=True, cwd=ROOT)
    assert process.wait(30) == 0
    text = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    assert "turn=in-front" in text
    assert "serving model=behind" in text
    assert "turn=behind" not in text
    assert "turn=warned-of" in text


def test_in_a_file_every_turn_has_its_lines() -> None:
    code = "import logging; from broker.logs import set_up_logging; set_up_logging(); logging.info('→ turn=x')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "→ turn=x" in found.stderr


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for words in (
        ("user", "add", "carol", "--data-dir", f"{tmp_path}/file/x"),
        ("broker", "secret", "--out", f"{tmp_path}/nosuch/secret.json", "--data-dir", f"{tmp_path}/data"),
        ("broker", "--port", "0", "--data-dir", f"{tmp_path}/file/x"),
    ):
        found = subprocess.run([*TURNPIKE, *words], capture_output=True, text=True, timeout=60)
        assert found.returncode == 1
        assert found.stderr.startswith(f"turnpike: {tmp_path}/"), found.stderr
        assert len(found.stderr.splitlines()) == 1


def test_an_address_that_is_none_leaves_no_account_without_credentials(tmp_path: Path) -> None:
    command = [*TURNPIKE, "user", "add", "carol", "--data-dir", str(tmp_path)]
    assert subprocess.run([*command, "--url", "garbage://x"], timeout=60).returncode == EXIT_USAGE
    assert subprocess.run(command, timeout=60).returncode == 0
    assert (tmp_path / "carol.credentials").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", ["broker reap", "sidecar --influx-url file:/dev/null", "read x"])
def test_who_waits_for_a_server_ends_at_the_first_signal(words: str, number: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = ["--url", f"nats://127.0.0.1:{silent.getsockname()[1]}", "--data-dir", str(tmp_path)]
        process = subprocess.Popen([*TURNPIKE, *words.split(), *there, "--wait-seconds", "120"])
        silent.settimeout(60)
        try:
            with silent.accept()[0]:  # it waits for its first word
                process.send_signal(number)
                assert process.wait(20) == EXIT_INTERRUPTED
        finally:
            process.kill()
            process.wait()


FORCED = """
import sys
from broker import process

def force(event, arguments):
    if event == "shutil.rmtree" and not forced:
        forced.append(event)
        process._end_now()

forced = []
sys.addaudithook(force)
with process.temporary_folder("forced-") as folder:
    (folder / "file").touch()
"""


def test_a_folder_is_gone_also_where_the_process_is_ended_by_force_while_it_goes(tmp_path: Path) -> None:
    found = subprocess.run([sys.executable, "-c", FORCED], env=os.environ | {"TMPDIR": str(tmp_path)}, cwd=ROOT)
    assert found.returncode == EXIT_INTERRUPTED
    assert list(tmp_path.iterdir()) == []


async def test_a_child_that_had_ended_by_itself_keeps_its_exit_code() -> None:
    process = await spawn([sys.executable, "-c", "raise SystemExit(7)"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222  # so that asyncio does not know yet
    assert await terminate(process, grace=0) == 7
