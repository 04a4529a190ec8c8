"""The commands, as a user runs them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker import codec
from broker.accounts import LOCAL, OPERATOR, WORKER, write_credentials
from broker.answer import TurnFailed
from broker.client import Client
from broker.connection import connect
from broker.messages import Done, Sampling
from broker.server import EmbeddedServer
from tests.influx_server import InfluxServer, needs_influxdb
from tests.support import TURNPIKE

OF_TESTS = {"TURNPIKE_INFLUX_URL": "file:/dev/null", "TURNPIKE_THREADS": "1"}
"""A demo's telemetry would go into the user's own folder; and a worker that is told its threads measures none, which
takes as long as all the rest of its start."""


def run(
    *arguments: str, environment: dict[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TURNPIKE_", "NATS_"))}
    return subprocess.run(
        [*TURNPIKE, *arguments],
        capture_output=True,
        text=True,
        env=clean | OF_TESTS | (environment or {}),
        timeout=100,
        input=stdin,
        check=False,
    )


@asynccontextmanager
async def worker(
    server: EmbeddedServer, model: Path, *flags: str, is_measured: bool = False
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A worker process that serves `m`, by one thread or by as many as it finds best."""
    credentials = server.folder / "worker.credentials"
    write_credentials(credentials, server.address(WORKER))
    command = [
        *TURNPIKE,
        "worker",
        "--model-file",
        str(model),
        "--model",
        "m",
        "--credentials",
        str(credentials),
        *(() if is_measured else ("--threads", "1")),
        *flags,
    ]
    process = await asyncio.to_thread(subprocess.Popen, command, stderr=subprocess.DEVNULL)
    try:
        async with Client(server.address(LOCAL)) as client, asyncio.timeout(60):
            while not await client.workers():
                assert process.poll() is None
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


def children(pid: int) -> list[int]:
    """All processes below one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *children(child)]
    return found


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def test_the_demo_shows_a_table_and_leaves_nothing_behind(tmp_path: Path) -> None:
    found = run("demo", "--num-conversations", "2", "--max-tokens", "8", environment={"TMPDIR": str(tmp_path)})
    assert found.returncode == 0, found.stderr
    for row in (
        "turns",
        "time to first token",
        "time per output token",
        "prefill",
        "memory of the worker",
        "from the cache",
    ):
        assert row in found.stdout
    assert list(tmp_path.iterdir()) == []


async def test_the_demo_uses_the_server_it_is_given(nats_server: EmbeddedServer) -> None:
    operator = nats_server.address(OPERATOR)
    url = operator.url.replace("://", f"://{operator.user}:{operator.password}@")
    arguments = ["demo", "--num-conversations", "1", "--max-tokens", "4", "--json"]
    found = await asyncio.to_thread(run, *arguments, environment={"NATS_URL": url})
    assert json.loads(found.stdout)["num_turns"] == 3
    async with Client(operator) as client:
        assert (await client.nc.request("$JS.API.STREAM.INFO.TURNS-demo")).data.count(b'"error"') == 0


def test_the_demo_speaks_json() -> None:
    as_users_have_it = {"TURNPIKE_THREADS": ""}
    found = run("demo", "--num-conversations", "1", "--max-tokens", "4", "--json", environment=as_users_have_it)
    figures = json.loads(found.stdout)
    assert figures["num_turns"] == 3
    assert figures["num_failed"] == 0
    assert figures["cached_tokens"] > 0
    assert figures["worker_memory_bytes"] > 1_000_000


@needs_influxdb
async def test_the_demo_fills_the_database(tmp_path: Path) -> None:
    influx = InfluxServer(tmp_path / "influx")
    async with influx:
        asked = await asyncio.to_thread(run, "telemetry", "init", environment={"TURNPIKE_INFLUX_URL": influx.url})
        assert "database turnpike: created" in asked.stdout
        asked = await asyncio.to_thread(run, "telemetry", "init", "--influx-url", influx.url)
        assert asked.stdout == "nothing to change\n"
        arguments = ["demo", "--num-conversations", "2", "--max-tokens", "4", "--json"]
        found = await asyncio.to_thread(run, *arguments, environment={"TURNPIKE_INFLUX_URL": influx.url})
        turns = influx.query("SELECT * FROM turn")
        assert len(turns) == json.loads(found.stdout)["num_turns"] == 6
        assert {row["model"] for row in turns} == {"demo"}
        assert all(row["run"] != "-" for row in turns)
        kinds = {row["kind"] for row in influx.query("SELECT * FROM event")}
        assert kinds == {
            "sidecar started", "sidecar stopped", "worker started", "worker stopped", "run began", "run ended"
        }  # fmt: skip
        wanted = {"cpu", "system", "memory", "engine", "queue", "stream", "broker", "sidecar"}
        assert wanted <= {row["name"] for row in influx.query("SHOW MEASUREMENTS")}


def test_a_sidecar_without_its_database_says_which_flag() -> None:
    found = run("telemetry", "init")
    assert found.returncode == 2
    assert "--influx-url: which InfluxDB?" in found.stderr
    found = run("sidecar", "--influx-url", "ftp://x")
    assert found.returncode == 1


@pytest.mark.parametrize("how", ["interrupt", "worker dies", "server dies", "killed"])
def test_nothing_is_left_of_a_demo_that_ends_early(tmp_path: Path, how: str) -> None:
    command = [*TURNPIKE, "demo", "--num-conversations", "50", "--max-tokens", "400"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | OF_TESTS | {"TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"worker ready.*pid (\d+)", line):
            worker_pid = int(found[1])
            break
    below = children(process.pid)
    server_pid = next(pid for pid in below if "nats" in Path(f"/proc/{pid}/comm").read_text())
    match how:
        case "interrupt":
            process.send_signal(signal.SIGINT)
        case "worker dies":
            os.kill(worker_pid, signal.SIGKILL)
        case "server dies":
            os.kill(server_pid, signal.SIGKILL)
        case "killed":
            process.kill()
    with process.stderr:
        rest = process.stderr.read()
    code = process.wait(timeout=60)
    deadline = time.monotonic() + 10
    while any(map(alive, below)) and time.monotonic() < deadline:
        pass  # the kernel takes the children of a killed parent in its own time
    assert not any(map(alive, below))
    if how == "interrupt":
        assert code == 130
    elif how == "killed":
        assert code == -9
        return  # nobody was left to remove the folder
    else:
        assert code == 1
        assert "turnpike: the worker ended" in rest or "turnpike: nats-server ended" in rest
    assert list(tmp_path.iterdir()) == []


async def test_ask_and_chat_stream_and_remember(nats_server: EmbeddedServer, tiny_path: Path, tmp_path: Path) -> None:
    credentials = tmp_path / "local.credentials"
    write_credentials(credentials, nats_server.address(LOCAL))
    login = ["--credentials", str(credentials)]
    async with worker(nats_server, tiny_path, is_measured=True):
        asked = await asyncio.to_thread(run, "ask", "auto", "hello", "--max-tokens", "5", *login)
        assert asked.returncode == 0, asked.stderr
        assert "5 tokens at" in asked.stderr
        (tmp_path / "routes.toml").write_text("[policies.quick]\nby = 'smallest'\n")
        routes = ("--routes", str(tmp_path / "routes.toml"))
        asked = await asyncio.to_thread(run, "ask", "quick", "hello", "--max-tokens", "5", *routes, *login)
        assert asked.returncode == 0, asked.stderr
        ended = await asyncio.to_thread(run, "ask", "m", "hello", "--max-tokens", "5", "--json", *login)
        assert json.loads(ended.stdout)["usage"]["completion_tokens"] == 5
        chatted = await asyncio.to_thread(run, "chat", "m", "--max-tokens", "5", *login, stdin="hello\nand more\n")
        cached = [int(number) for number in re.findall(r"(\d+) of them cached", chatted.stderr)]
        assert cached[0] >= 0
        assert cached[1] > 16
        loaded = await asyncio.to_thread(
            run, "load", "--model", "m", "--num-conversations", "3", "--max-tokens", "4", "--json", *login
        )
        assert json.loads(loaded.stdout)["num_turns"] == 9
        assert "50 conversations of at least 5 messages found" in loaded.stderr
        shown = await asyncio.to_thread(run, "top", "--json", *login)
        picture = json.loads(shown.stdout)
        assert picture["workers"][0]["quantization"] == "Q8_0"
        facts = picture["workers"][0]["facts"]
        assert (facts["threads_are"], facts["threads_batch_are"]) == ("measured", "measured")
        assert int(facts["threads"]) >= 1 <= int(facts["threads_batch"])
        assert facts["poll"] in ("none", "0", "50")
        assert float(facts["read_peak_bytes_per_second"]) > 1e6 * int(facts["read_peak_threads"])
        assert 0 < int(facts["active_bytes"]) <= int(facts["file_bytes"])
        assert picture["queues"] == [
            {"model": "m", "num_pending": {"interactive": 0, "batch": 0}, "num_in_work": {"interactive": 0, "batch": 0}}
        ]
        shown = await asyncio.to_thread(run, "top", "--once", *login)
        assert "interactive" not in shown.stdout
        assert "Q8_0" in shown.stdout
        assert (await asyncio.to_thread(run, "ask", "nobody", "hello", *login)).returncode == 1


async def test_an_interrupt_stops_an_answer_and_not_the_chat(
    nats_server: EmbeddedServer, tiny_path: Path, tmp_path: Path
) -> None:
    credentials = tmp_path / "local.credentials"
    write_credentials(credentials, nats_server.address(LOCAL))

    def talk() -> tuple[str, int]:
        command = [*TURNPIKE, "chat", "m", "--credentials", str(credentials), "--max-tokens", "4000"]
        pipe = subprocess.PIPE
        with subprocess.Popen([*command, "--ignore-eos"], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as chat:
            assert chat.stdin is not None
            assert chat.stdout is not None
            assert chat.stderr is not None
            chat.stdin.write(b"go on\n")
            chat.stdout.read(1)
            chat.send_signal(signal.SIGINT)
            while b"[" not in (line := chat.stderr.readline()):
                assert line, "the chat ended"
            chat.stdin.write(b"and on\n")
            chat.stdin.close()
            chat.stdout.read()
            return (line + chat.stderr.read()).decode(), chat.wait(20)

    operator = await connect(nats_server.address(OPERATOR), name="operator")
    ends = await operator.subscribe("end.>")
    try:
        async with worker(nats_server, tiny_path):
            said, code = await asyncio.to_thread(talk)
        told = [await ends.next_msg(5), await ends.next_msg(5)]
        found = [codec.decode_reply(one.data, one.headers) for one in told]
    finally:
        await operator.close()
    assert [isinstance(end, Done) and end.finish_reason for end in found] == ["cancelled", "length"]
    # The chat waits for the end that it asked for no longer than a third of a second.
    assert "[cancelled:" in said or "[stopped: its end has not come yet]" in said
    assert "[length:" in said
    assert code == 0


async def test_a_schema_a_score_and_a_bad_grammar_on_a_whole_worker(
    nats_server: EmbeddedServer, tiny_path: Path
) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    async with worker(nats_server, tiny_path, "--deterministic"), Client(nats_server.address(LOCAL)) as client:
        done = await client.ask("m", "json please", sampling=Sampling(json_schema=schema, max_tokens=100))
        assert json.loads(done.text)["ok"] in (True, False)
        scored = await client.ask("m", "which one", kind="score", continuations=["yes", "no", "perhaps not"])
        assert len(scored.scores) == 3
        assert all(score.logprob < 0 and score.num_tokens > 0 for score in scored.scores)
        with pytest.raises(TurnFailed, match=r"invalid_grammar.*sampling\.grammar"):
            await client.ask("m", "hello", sampling=Sampling(grammar="root ::= nothing"))
        first = await client.ask("m", "hello", sampling=Sampling(max_tokens=30))
        again = await client.ask("m", "hello", sampling=Sampling(max_tokens=30))
        assert first.text == again.text


async def test_a_killed_workers_turn_is_finished_by_the_next_one(nats_server: EmbeddedServer, tiny_path: Path) -> None:
    from broker.topology import Limits

    await nats_server.ensure(["m"], Limits(ack_wait_seconds=2))
    async with Client(nats_server.address(LOCAL)) as client:
        async with worker(nats_server, tiny_path, "--worker-name", "first") as first:
            answer = client.ask("m", "go on", sampling=Sampling(max_tokens=4000, ignore_eos=True))
            async for _ in answer:
                break
            first.kill()
            await asyncio.to_thread(first.wait)
            await answer.close()
        async with worker(nats_server, tiny_path, "--worker-name", "second"):
            end = await client.follow(answer.turn.id)
    assert (end.worker, end.attempt, end.finish_reason) == ("second", 0, "length")


async def test_a_sigterm_drains_and_a_second_one_forces(nats_server: EmbeddedServer, tiny_path: Path) -> None:
    async with Client(nats_server.address(LOCAL)) as client:
        async with worker(nats_server, tiny_path) as process:
            answer = client.ask("m", "go on", sampling=Sampling(max_tokens=500, ignore_eos=True))
            stream = aiter(answer.__aiter__())
            await anext(stream)
            process.send_signal(signal.SIGTERM)
            async for _ in stream:
                pass
            assert answer.done.usage.completion_tokens == 500
            assert await asyncio.to_thread(process.wait, 20) == 0
        async with worker(nats_server, tiny_path) as process:
            answer = client.ask("m", "go on", sampling=Sampling(max_tokens=4000, ignore_eos=True))
            stream = aiter(answer.__aiter__())
            await anext(stream)
            process.send_signal(signal.SIGTERM)
            await client.nc.flush()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) in (0, 130)
            await answer.close()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (
            ("worker", "--model", "nobody", "--lock-file", "nowhere"),
            "nowhere: there is no such file: turnpike models lock",
        ),
        (("worker", "--model-file", "x.gguf", "--num-ctx", "5", "--threads", "0"), "--num-ctx: must be at least 256"),
        (("ask", "m", "x", "--max-tokens", "0"), "--max-tokens: must be at least 1"),
        (("ask", "m", "x", "--url", "nats://127.0.0.1:1"), "no NATS server answers at nats://127.0.0.1:1"),
        (("ask", "m", "x", "--credentials", "/nowhere"), "/nowhere"),
        (("load", "--model", "m", "--concurrency", "0"), "--concurrency"),
        (("broker", "--port", "many"), "--port"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(arguments: tuple[str, ...], fragment: str) -> None:
    found = run(*arguments)
    assert found.returncode in (1, 2)
    assert fragment in found.stderr
    assert "Traceback" not in found.stderr


def test_an_unknown_setting_is_named() -> None:
    found = run("top", environment={"TURNPIKE_THREDS": "2"})
    assert found.returncode == 2
    assert "TURNPIKE_THREDS: unknown setting (did you mean threads?)" in found.stderr


async def test_a_context_that_does_not_fit_names_the_largest_that_would(
    nats_server: EmbeddedServer, tiny_path: Path
) -> None:
    credentials = nats_server.folder / "worker.credentials"
    write_credentials(credentials, nats_server.address(WORKER))
    flags = ["--model-file", str(tiny_path), "--num-ctx", "1000000000", "--credentials", str(credentials)]
    found = await asyncio.to_thread(run, "worker", *flags)
    assert found.returncode == 1
    largest = re.search(r"the largest context that fits is (\d+)", found.stderr)
    assert largest is not None
    assert int(largest[1]) > 1_000_000


@pytest.mark.parametrize("command", ["demo", "broker", "worker", "ask", "chat", "load", "top"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    found = run(command, "--help")
    assert found.returncode == 0
    assert f"example: turnpike {command}" in found.stdout
