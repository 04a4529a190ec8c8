"""A worker whose link goes down in the middle of an answer: two network namespaces and a pair of virtual cables."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.accounts import LOCAL, WORKER, write_credentials
from broker.client import Client
from broker.messages import Sampling
from broker.process import spawn
from broker.server import EmbeddedServer
from broker.topology import Limits
from tests.chaos.cable import WHY_NO_CABLES, Cable, can_lay_cables, lay_cable
from tests.support import ROOT
from workers.llama.random_model import write_model

NOTICED_SECONDS = 15.0
SAMPLING = Sampling(max_tokens=3000, ignore_eos=True)

pytestmark = [pytest.mark.timeout(200), pytest.mark.skipif(not can_lay_cables(), reason=WHY_NO_CABLES)]


@pytest.fixture
def cable() -> Iterator[Cable]:
    with lay_cable() as laid:
        yield laid


@asynccontextmanager
async def worker(
    server: EmbeddedServer, model: Path, name: str, log: Path, namespace: str | None = None
) -> AsyncIterator[None]:
    credentials = server.folder / "worker.credentials"
    write_credentials(credentials, server.address(WORKER))
    command: list[str | Path] = ["ip", "netns", "exec", namespace] if namespace else []
    command += [sys.executable, ROOT / "turnpike", "worker", "--model-file", model, "--model", "m"]
    command += ["--credentials", credentials, "--worker-name", name, "--deterministic", "--threads", "1"]
    with log.open("wb") as output:
        process = await spawn(command, stderr=output.fileno())
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def until_served(client: Client, *names: str) -> None:
    async with asyncio.timeout(60):
        while {found.worker for found in await client.workers()} != set(names):
            pass


async def until_logged(log: Path, text: str, seconds: float) -> float:
    """How long it took."""
    started = time.perf_counter()
    while text not in log.read_text():
        assert time.perf_counter() - started < seconds, log.read_text()
        await asyncio.sleep(0.05)  # a file tells nobody that it has grown
    return time.perf_counter() - started


async def test_a_cut_off_workers_turn_goes_on_elsewhere_and_it_comes_back(
    cable: Cable, tmp_path: Path, model_dir: Path
) -> None:
    model = write_model(model_dir / "tiny.gguf", "tiny", "Q8_0")
    far, near = tmp_path / "far.log", tmp_path / "near.log"
    async with EmbeddedServer(tmp_path / "server", host=cable.address) as server:
        await server.ensure(["m"], Limits(ack_wait_seconds=6))
        async with (
            Client(server.address(LOCAL)) as client,
            worker(server, model, "far", far, namespace=cable.namespace),
        ):
            await until_served(client, "far")
            expected = (await client.ask("m", "hello", sampling=SAMPLING)).tokens
            answer = client.ask("m", "hello", sampling=SAMPLING)
            stream = answer.__aiter__()
            tokens = list((await anext(stream)).tokens)
            cable.pull_out()
            async with worker(server, model, "near", near):
                async for chunk in stream:
                    assert chunk.attempt == 0
                    tokens += chunk.tokens
                assert (tuple(tokens), answer.done.worker) == (expected, "near")
                assert await until_logged(far, "nats disconnected", NOTICED_SECONDS) < NOTICED_SECONDS
                cable.plug_in()
                await until_served(client, "far", "near")
            await until_served(client, "far")
            again = await client.ask("m", "hello", sampling=Sampling(max_tokens=20, ignore_eos=True))
            assert (again.tokens, again.worker) == (expected[:20], "far")


async def test_a_worker_that_was_cut_off_for_a_while_finishes_its_turn(
    cable: Cable, tmp_path: Path, model_dir: Path
) -> None:
    model = write_model(model_dir / "tiny.gguf", "tiny", "Q8_0")
    log = tmp_path / "far.log"
    async with EmbeddedServer(tmp_path / "server", host=cable.address) as server:
        await server.ensure(["m"])  # half a minute until a silent worker's turn is another's
        async with (
            Client(server.address(LOCAL)) as client,
            worker(server, model, "far", log, namespace=cable.namespace),
        ):
            await until_served(client, "far")
            answer = client.ask("m", "hello", sampling=SAMPLING)
            stream = answer.__aiter__()
            tokens = list((await anext(stream)).tokens)
            cable.pull_out()
            await until_logged(log, "nats disconnected", NOTICED_SECONDS)
            cable.plug_in()
            async for chunk in stream:
                tokens += chunk.tokens
            assert tuple(tokens) == answer.done.tokens
            assert len(tokens) == SAMPLING.max_tokens
