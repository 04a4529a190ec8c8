"""The store's disk full: what was acknowledged stays, what was not says so, and it goes on when there is room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.accounts import LOCAL
from broker.answer import Answer, TurnFailed
from broker.client import Client
from broker.errors import NotAcknowledged
from broker.server import EmbeddedServer
from broker.topology import Limits
from tests.model.test_commands import worker
from workers.llama.random_model import write_model

MIB = 1024 * 1024
# The server reserves what its streams may grow to, so only somebody else can fill the disk under it.
LIMITS = Limits(
    max_queued_bytes=8 * MIB,
    max_reply_bytes=4 * MIB,
    max_end_bytes=4 * MIB,
    max_dead_bytes=2 * MIB,
    max_telemetry_bytes=2 * MIB,
    max_kept_bytes=2 * MIB,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own to fill needs root")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


async def test_a_full_disk_loses_nothing_that_was_acknowledged(disk: Path, model_dir: Path) -> None:
    model = write_model(model_dir / "tiny.gguf", "tiny", "Q8_0")
    async with EmbeddedServer(disk / "server") as server:
        await server.ensure(["m"], LIMITS)
        async with Client(server.address(LOCAL)) as client:
            filler = disk / "filler"
            free = os.statvfs(disk)
            filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 2 * MIB))
            acknowledged: list[Answer] = []

            async def fill_up() -> None:
                while True:
                    answer = client.ask("m", "hello " * 60_000)
                    await answer.publish()
                    acknowledged.append(answer)

            with pytest.raises(NotAcknowledged, match="may or may not be queued"):
                await fill_up()
            assert acknowledged
            filler.unlink()
            await server.kill()
            await server.start()
        async with Client(server.address(LOCAL)) as client:
            late = client.ask("m", "hello")
            await late.publish()
            async with worker(server, model):
                for answer in acknowledged:
                    # Longer than the context: but an end is an end.
                    followed = client.follow(answer.turn.id)
                    with pytest.raises(TurnFailed, match="prompt_too_long"):
                        await followed
                assert (await late).usage.completion_tokens > 0
