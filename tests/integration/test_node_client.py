"""examples/node/client.mjs, a client that knows nothing but docs/protocol.md."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from broker.accounts import LOCAL, write_credentials
from broker.server import EmbeddedServer
from tests.fakes import FakeEngine
from tests.integration.conftest import StartWorker
from tests.support import ROOT

NODE = ROOT / "examples" / "node"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
    reason="no Node, or its packages are not installed: npm ci in examples/node",
)


async def start(path: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "node",
        str(NODE / "client.mjs"),
        *arguments,
        env=os.environ | {"TURNPIKE_CREDENTIALS": str(path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(path: Path, *arguments: str) -> tuple[int | None, str, str]:
    process = await start(path, *arguments)
    out, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), errors.decode()


async def test_it_asks_streams_reads_later_and_cancels(
    nats_server: EmbeddedServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    path = tmp_path / "local.credentials"
    write_credentials(path, nats_server.address(LOCAL))
    async with start_worker():
        code, out, errors = await run(path, "ask", "m", "grüße, 日本")
        assert (code, out) == (0, "echo grüße, 日本\n"), errors
        assert "tokens by w1" in errors
        turn = errors.split()[1]
        assert await run(path, "read", turn) == (0, "echo grüße, 日本\n", "")
        code, _, errors = await run(path, "read", "unknown")
        assert code == 1
        assert "no such turn" in errors
        code, _, errors = await run(path, "ask", "m", "x" * 5000)
        assert code == 1
        assert errors.splitlines()[-1].startswith("prompt_too_long")
        code, _, errors = await run(path, "ask", "nobody", "hello")
        assert code == 1
        assert "not served" in errors
    slow = FakeEngine(answer="slow " * 400, step_seconds=0.005)
    async with start_worker(slow, name="w2"):
        process = await start(path, "ask", "m", "hello")
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readexactly(5), 20) == b"slow "
        process.send_signal(signal.SIGINT)
        out_bytes, errors_bytes = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0
        assert errors_bytes.decode().splitlines()[-1].startswith("cancelled, ")
        assert len(out_bytes) < 2000


def test_it_is_short_and_its_packages_are_pinned() -> None:
    assert len((NODE / "client.mjs").read_text().splitlines()) < 100
    lock = json.loads((NODE / "package-lock.json").read_text())
    assert all("integrity" in one for name, one in lock["packages"].items() if name)
    assert not any("resolved" in one for one in lock["packages"].values())
