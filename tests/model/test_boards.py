"""`turnpike board` as it is started by hand: two models of which one fits at a time, a kill, a second one, a drain."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import signal
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker import placing
from broker.accounts import BOARD, LOCAL, OPERATOR, write_credentials
from broker.answer import TurnFailed
from broker.catalogue import Locked, read_lock, write_lock
from broker.client import Client
from broker.connection import close, connect
from broker.messages import Message, Sampling
from broker.messages.boards import AVAILABLE, BROKEN, DRAINING, LOADING, SERVING, BoardState, Claim
from broker.placing import Placement, Watch
from broker.process import EXIT_ERROR, spawn
from broker.server import EmbeddedServer
from broker.topology import Limits
from tests.board_fakes import children_of, is_gone, is_in, model_of, reaping, state_of, until
from tests.support import TURNPIKE, eventually, free_port
from workers.boards.offers import Offers
from workers.boards.settings import BoardSettings
from workers.models import DEMO

SECONDS = 60.0
SHORT = Sampling(max_tokens=8)
QUESTION = "Where is the ferry? " * 12
"""Long enough to be kept."""
MAX_RSS_KIB = 40 * 1024
FLAGS = ("--num-ctx", "512", "--num-slots", "2", "--threads", "1", "--park-bytes", "16000000")
EAGER = ("--max-wait-seconds", "0", "--min-stay-seconds", "0")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "server", port=free_port()) as server:
        await server.ensure(["a", "b"], Limits(ack_wait_seconds=2.0))
        write_credentials(tmp_path / "board.credentials", server.address(BOARD))
        yield server


@pytest.fixture
async def watch(server: EmbeddedServer) -> AsyncIterator[Watch]:
    nc = await connect(server.address(OPERATOR), name="operator")
    async with Watch(nc) as watch:
        yield watch
    await close(nc)


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[Client]:
    async with Client(server.address(LOCAL)) as client:
        yield client


def locked(folder: Path, *names: str) -> list[str]:
    """The flags that name a lock file with copies of the shipped model."""
    models = folder / "models"
    models.mkdir()
    one = Locked("o/r", "c" * 40, "m.gguf", DEMO.sha256, DEMO.path.stat().st_size)
    for name in names:
        shutil.copyfile(DEMO.path, one.path_in(models, name))
    write_lock(folder / "lock", dict.fromkeys(names, one))
    return ["--lock-file", str(folder / "lock"), "--models-dir", str(models)]


@asynccontextmanager
async def board(folder: Path, *words: str, name: str = "b1") -> AsyncIterator[asyncio.subprocess.Process]:
    where = ["--credentials", str(folder / "board.credentials"), "--data-dir", str(folder / "data"), "--node", name]
    where += ["--board-dir", str(folder / "kept")]
    with (folder / "board.log").open("ab") as log:
        process = await spawn([*TURNPIKE, *words, *FLAGS, *where], stdout=log.fileno(), stderr=log.fileno())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def log_of(folder: Path) -> str:
    return (folder / "board.log").read_text()


def one_fits(folder: Path) -> str:
    """Bytes of memory for one of two models alike."""
    settings = BoardSettings(
        model=("a", "b"),
        lock_file=str(folder / "lock"),
        models_dir=str(folder / "models"),
        num_ctx=512,
        num_slots=2,
        park_bytes=16_000_000,
    )
    return str(Offers(settings).look(1 << 40)["a"].planned_bytes * 3 // 2)


async def answered(client: Client, model: str) -> str:
    async with asyncio.timeout(SECONDS):
        answer = client.ask(model, QUESTION, sampling=SHORT)
        await answer
        return answer.text


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(SECONDS):
        return await process.wait()


async def test_a_board_serves_two_models_of_which_one_fits(
    server: EmbeddedServer, watch: Watch, client: Client, tmp_path: Path
) -> None:
    files = locked(tmp_path, "a", "b")
    several = ("worker", "--model", "a", "--model", "b", *files)
    async with board(tmp_path, *several, *EAGER, "--memory-bytes", one_fits(tmp_path)) as process:
        told = await until(watch, lambda found: model_of(found, "a"))
        talk = client.ask("a", QUESTION, sampling=SHORT, conversation="talk")
        await talk
        first = talk.text
        (worker,) = await client.served("a")
        assert (told.num_ctx, told.can, told.num_slots) == (worker.num_ctx, worker.can, worker.load.num_slots)
        assert first == await answered(client, "b")
        state = await until(watch, swapped)
        assert {one.model: one.state for one in state.models} == {"a": AVAILABLE, "b": SERVING}
        # A conversation of the model that went is found again when it comes back.
        history = [Message("user", QUESTION), Message("assistant", first), Message("user", "And then?")]
        again = client.ask("a", history, sampling=SHORT, conversation="talk")
        async with asyncio.timeout(SECONDS):
            assert (await again).usage.cached_tokens >= talk.done.usage.prompt_tokens
        # Each of the three turns came before its model was there.
        waited = await until(watch, lambda found: one if (one := state_of(found)) and one.num_waited == 3 else None)
        assert 0 < waited.waited_seconds < 3 * SECONDS
        # A second one on this node says so and ends; the first goes on.
        async with board(tmp_path, *several) as second:
            assert await ended(second) == EXIT_ERROR
        assert re.search(rf"the board b1 is in use by process {process.pid} .*another --node", log_of(tmp_path))
        assert resident_kib(process.pid) < MAX_RSS_KIB
        os.kill(process.pid, signal.SIGTERM)
        assert await ended(process) == 0
    assert re.search(r"^a \| .* serving model=a ", log_of(tmp_path), re.MULTILINE)
    assert re.search(r"^b \| .* draining ", log_of(tmp_path), re.MULTILINE)
    assert await until(watch, lambda found: not found.boards and not found.claims)


async def test_a_board_that_is_killed_while_it_drains_leaves_no_worker_and_the_next_one_goes_on(
    server: EmbeddedServer, watch: Watch, client: Client, tmp_path: Path
) -> None:
    words = ("board", "--model", "a", "--pin", "a", *locked(tmp_path, "a"))
    async with board(tmp_path, *words) as process:
        await until(watch, is_in("a", SERVING))
        (worker,) = children_of(process.pid)
        gone = os.pidfd_open(worker)
        answer = client.ask("a", "Tell me all of it.", sampling=Sampling(max_tokens=400, ignore_eos=True))
        async for _ in answer:
            break
        process.terminate()
        await until(watch, is_in("a", DRAINING))
        os.kill(process.pid, signal.SIGKILL)
        assert await is_gone(gone, SECONDS)
        await ended(process)
    async with board(tmp_path, *words):
        async with asyncio.timeout(SECONDS):
            rest = [chunk async for chunk in answer]
        assert rest
        assert answer.done.usage.completion_tokens == 400


async def test_a_file_that_was_changed_is_one_error_and_not_loaded_in_a_loop(
    server: EmbeddedServer, watch: Watch, client: Client, tmp_path: Path
) -> None:
    nc = await connect(server.address(BOARD), name="a life before")
    assert await placing.claim(nc, Claim("b1", "b"))
    await close(nc)
    words = ("board", "--model", "a", "--pin", "a", *locked(tmp_path, "a"))
    (path,) = (tmp_path / "models").iterdir()
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    async with board(tmp_path, *words) as process:
        broken = await until(watch, is_in("a", BROKEN))
        assert "has SHA-256" in broken.reason
        assert ("b", 0) not in watch.placement().claims, "nobody is there who would load it"
        os.kill(process.pid, signal.SIGTERM)
        assert await ended(process) == 0
    assert log_of(tmp_path).count("loading model=a") == 1


async def test_a_worker_that_starts_while_the_server_is_away_waits_for_it_and_answers(
    server: EmbeddedServer, watch: Watch, client: Client, tmp_path: Path
) -> None:
    async with board(tmp_path, "board", *locked(tmp_path, "a")):
        answer = client.ask("a", QUESTION, sampling=SHORT)
        await answer.publish()
        await until(watch, is_in("a", LOADING))
        await server.kill()
        await eventually(lambda: "a | " in log_of(tmp_path) and "waiting for the server" in log_of(tmp_path))
        await server.start()
        async with asyncio.timeout(SECONDS):
            await answer
    assert log_of(tmp_path).count("loading model=a") == 1


def patched(key: str, value: int) -> bytes:
    """The shipped model, whose header has another number there."""
    content = bytearray(DEMO.path.read_bytes())
    at = content.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + 4
    struct.pack_into("<I", content, at, value)
    return bytes(content)


def bad_files(folder: Path) -> dict[str, str]:
    """A lock file with a model of each kind that cannot be loaded; by name, why."""
    whole = DEMO.path.read_bytes()
    changed = whole[:-1] + bytes([whole[-1] ^ 1])
    as_locked = {  # and what of it is there, where that is something else
        "missing": (whole, None, "turnpike models pull missing"),
        "cut": (whole, whole[:-100_000], "are locked"),
        "changed": (whole, changed, "has SHA-256"),
        "text": (b"x" * 5000, b"", "is not a GGUF file"),
        "foreign": (whole.replace(b"llama", b"lhama"), b"", "of the architecture 'lhama'"),
        "hostile": (patched("llama.block_count", 1 << 31), b"", "2,147,483,648 layers"),
        "large": (patched("llama.embedding_length", 1 << 20), b"", "MiB, and this board has"),
        "aborts": (patched("llama.block_count", 0), b"", "llama.cpp gave up"),
        "refused": (patched("llama.block_count", 6), b"", "llama.cpp cannot load it"),
    }
    found = {}
    for name, (content, there, _) in as_locked.items():
        one = found[name] = Locked("o/r", "c" * 40, "m.gguf", hashlib.sha256(content).hexdigest(), len(content))
        if there is not None:
            one.path_in(folder / "models", name).write_bytes(there or content)
    write_lock(folder / "lock", read_lock(folder / "lock") | found)
    return {name: reason for name, (_, _, reason) in as_locked.items()}


async def test_each_kind_of_bad_file_is_one_error_to_the_turn_that_waits_and_costs_its_own_model(
    server: EmbeddedServer, watch: Watch, client: Client, tmp_path: Path
) -> None:
    files = locked(tmp_path, "a")
    reasons = bad_files(tmp_path)
    await server.ensure([*reasons], Limits(ack_wait_seconds=2.0))
    waiting = {name: client.ask(name, QUESTION, sampling=SHORT) for name in reasons}
    for answer in waiting.values():
        await answer.publish()
    names = [word for name in ("a", *reasons) for word in ("--model", name)]
    memory = ("--memory-bytes", "600000000")
    async with reaping(server), board(tmp_path, "board", *names, *files, *EAGER, *memory) as process:
        for name, answer in waiting.items():
            with pytest.raises(TurnFailed) as failed:
                async with asyncio.timeout(SECONDS):
                    await answer
            assert failed.value.failed.code == "not_loaded"
            assert reasons[name] in failed.value.failed.detail
        assert await answered(client, "a")
        # One whose file is put right is loaded for the next turn.
        shutil.copyfile(DEMO.path, next((tmp_path / "models").glob("cut-*")))
        async with asyncio.timeout(SECONDS):
            await client.until_served("cut", SECONDS)
        assert await answered(client, "cut")
        os.kill(process.pid, signal.SIGTERM)
        assert await ended(process) == 0
    loads = Counter(re.findall(r"loading model=(\w+)", log_of(tmp_path)))
    assert loads == {"a": 1, "cut": 1, "changed": 1, "aborts": 1, "refused": 1}


async def test_a_board_that_can_load_nothing_of_what_it_was_told_to_says_so_to_the_turns_that_wait(
    server: EmbeddedServer, client: Client, tmp_path: Path
) -> None:
    answer = client.ask("a", QUESTION, sampling=SHORT)
    await answer.publish()
    words = ("board", *locked(tmp_path, "a", "b"), "--memory-bytes", "1000000")
    async with reaping(server), board(tmp_path, *words) as process:
        with pytest.raises(TurnFailed, match=r"takes .* MiB, and this board has 1 MiB for models: a smaller --num-ctx"):
            async with asyncio.timeout(SECONDS):
                await answer
        os.kill(process.pid, signal.SIGTERM)
        assert await ended(process) == 0


async def test_a_board_without_any_models_file_says_what_is_missing(server: EmbeddedServer, tmp_path: Path) -> None:
    files = locked(tmp_path, "a", "b")
    for path in (tmp_path / "models").iterdir():
        path.unlink()
    async with board(tmp_path, "board", *files) as process:
        assert await ended(process) == EXIT_ERROR
    (line,) = log_of(tmp_path).splitlines()
    assert line.startswith("turnpike: the board b1 has no model: a: a-")
    assert "turnpike models pull b" in line


def swapped(found: Placement) -> BoardState | None:
    """The board once it has one model in place of the other."""
    state = state_of(found)
    is_so = state is not None and state.num_swaps == 1 and is_in("b", SERVING)(found) is not None
    return state if is_so else None


def resident_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])
