"""A worker's answers to probes."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from broker.client import Client
from broker.errors import TurnpikeError
from broker.health import serve_health
from broker.messages import Sampling
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import eventually
from workers import health


async def probe(port: int, path: str) -> tuple[int, str]:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        answer = await http.get(path)
    return answer.status_code, answer.text.strip()


async def test_a_worker_is_ready_while_it_serves_and_not_while_it_drains(
    client: Client, start_worker: StartWorker
) -> None:
    engine = FakeEngine()
    async with (
        start_worker(engine) as running,
        serve_health(
            0, live=running.worker.stuck_reason, ready=running.worker.unready_reason, host="127.0.0.1"
        ) as port,
    ):
        assert await probe(port, "/ready") == (200, "ok")
        assert await probe(port, "/live") == (200, "ok")
        assert (await probe(port, "/"))[0] == 404
        engine.gate.clear()
        turn = asyncio.ensure_future(client.ask("m", "hello", sampling=Sampling(max_tokens=3)))
        await asyncio.to_thread(engine.entered.wait, 10)
        running.stop.set()
        await eventually(lambda: not running.worker.is_serving.is_set())
        assert await probe(port, "/ready") == (503, "not serving")
        assert await probe(port, "/live") == (200, "ok")
        engine.gate.set()
        assert len((await turn).tokens) == 3


async def test_an_engine_that_does_not_come_back_from_a_step_is_told(
    client: Client, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "STUCK_SECONDS", 0.05)
    engine = FakeEngine()
    async with start_worker(engine) as running:
        assert running.worker.stuck_reason() is None
        engine.gate.clear()
        turn = asyncio.ensure_future(client.ask("m", "hello", sampling=Sampling(max_tokens=3)))
        problem = await eventually(running.worker.stuck_reason)
        assert problem is not None
        assert problem.startswith("a step has taken")
        engine.gate.set()
        await turn
        await eventually(lambda: running.worker.stuck_reason() is None)


async def test_strange_requests_and_silent_callers_harm_nobody() -> None:
    def well() -> None:
        return None

    async with serve_health(0, live=well, ready=well, host="127.0.0.1") as port:
        for request in (b"\r\n\r\n", b"x" * 10_000, b"GET\r\n\r\n", b"POST /live HTTP/1.1\r\n\r\n", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            writer.write_eof()
            assert b"200 OK" not in await reader.read()
            writer.close()
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        assert await probe(port, "/live") == (200, "ok")
        for _, writer in silent:
            writer.close()
        with pytest.raises(TurnpikeError, match="--health-port"):
            async with serve_health(port, live=well, ready=well, host="127.0.0.1"):
                pass
