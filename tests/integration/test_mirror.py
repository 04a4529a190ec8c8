"""A model's file from a neighbour: the commands as a user runs them, on a real nats-server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.accounts import LOCAL, WORKER, write_credentials
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from producers.models.command import EXIT_NO_ANSWERS
from tests.hub_server import FILE, REPOSITORY, Cut, Hub, Refuse, serving
from tests.support import TURNPIKE

CONTENT = random.Random(1).randbytes(3_000_000)
OTHER = random.Random(2).randbytes(3_000_000)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(CONTENT) as hub:
        yield hub


class Node:
    """A folder with a lock file and credentials, and the commands in it."""

    def __init__(self, folder: Path, hub: Hub, server: EmbeddedServer | None = None, file: str = FILE) -> None:
        self.models = folder / "models"
        self._environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf")}
        self._flags = ["--lock-file", str(folder / "lock"), "--models-dir", str(self.models)]
        self._credentials = folder / "credentials"
        folder.mkdir()
        if server is not None:
            write_credentials(self._credentials, server.address(LOCAL))
            write_credentials(folder / "worker", server.address(WORKER))
        self._worker = folder / "worker"
        assert self.run("lock", "m", "--repository", REPOSITORY, "--file", file).returncode == 0

    def command(self, *arguments: str) -> list[str]:
        account = ["--credentials", str(self._credentials)] if self._credentials.exists() else []
        return [*TURNPIKE, "models", *arguments, *self._flags, *account]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | self._environment | environment
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, env=env, timeout=60)

    async def pull(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self.run, "pull", "m", *arguments, **environment)

    @contextlib.asynccontextmanager
    async def serving(self, num_files: int = 1) -> AsyncIterator[asyncio.subprocess.Process]:
        command = [*TURNPIKE, "models", "serve", *self._flags, "--credentials", str(self._worker)]
        flags = ["--mirror-port", "0", "--mirror-host", "127.0.0.1"]
        process = await spawn([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stderr is not None
        try:
            async with asyncio.timeout(20):
                while num_files:
                    line = await process.stderr.readline()
                    assert line, "it ended"
                    num_files -= b"serving model=m" in line
            yield process
        finally:
            assert await terminate(process) == 0


async def test_a_model_in_several_files_comes_from_a_mirror_too(
    nats_server: EmbeddedServer, hub: Hub, tmp_path: Path
) -> None:
    hub.others = {"m-00001-of-00002.gguf": CONTENT, "m-00002-of-00002.gguf": OTHER}
    first, second = (Node(tmp_path / name, hub, nats_server, "m-00001-of-00002.gguf") for name in "ab")
    assert (await first.pull()).returncode == 0
    assert hub.num_downloads == 2
    async with first.serving(num_files=2):
        found = await second.pull(HF_HUB_OFFLINE="1")
        assert found.returncode == 0, found.stderr
    assert hub.num_downloads == 2
    assert [path.read_bytes() for path in sorted(second.models.glob("*.gguf"))] == [CONTENT, OTHER]


async def test_a_cluster_downloads_a_file_once(nats_server: EmbeddedServer, hub: Hub, tmp_path: Path) -> None:
    first, second = Node(tmp_path / "a", hub, nats_server), Node(tmp_path / "b", hub, nats_server)
    assert (await first.pull()).returncode == 0
    assert hub.num_downloads == 1
    async with first.serving():
        found = await second.pull(HF_HUB_OFFLINE="1")
        assert found.returncode == 0, found.stderr
        assert Path(found.stdout.strip()).read_bytes() == CONTENT
    assert hub.num_downloads == 1


async def test_a_transfer_that_is_cut_again_and_again_goes_on(hub: Hub, tmp_path: Path) -> None:
    second = Node(tmp_path / "a", hub)
    with serving(CONTENT) as mirror:
        rng = random.Random(7)
        cuts = sorted(rng.sample(range(1, len(CONTENT)), 4))
        for begin, end in zip([0, *cuts], cuts, strict=False):
            mirror.faults.append(Cut(end - begin))
            assert (await second.pull("--mirror", mirror.url, HF_HUB_OFFLINE="1")).returncode == 1
            (part,) = second.models.iterdir()
            assert part.stat().st_size == end
        assert (await second.pull("--mirror", mirror.url, HF_HUB_OFFLINE="1")).returncode == 0
        (path,) = second.models.iterdir()
        assert path.read_bytes() == CONTENT
        assert mirror.num_bytes_sent == len(CONTENT)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Cut(1_000_000), "ended 2000000 bytes early|IncompleteRead"),
        (Refuse(404), "HTTP 404"),
        (None, "sent bytes of SHA-256"),
    ],
)
async def test_a_mirror_that_fails_is_named_and_the_hub_gives_the_rest(
    hub: Hub, tmp_path: Path, fault: Cut | Refuse | None, sentence: str
) -> None:
    node = Node(tmp_path / "a", hub)
    with serving(CONTENT if fault else OTHER) as mirror:
        mirror.faults += [fault] if fault else []
        found = await node.pull("--mirror", mirror.url)
    assert found.returncode == 0
    assert re.search(sentence, " ".join(found.stderr.split()))
    assert Path(found.stdout.strip()).read_bytes() == CONTENT
    # What the mirror gave and was good is not fetched again.
    assert hub.num_bytes_sent == len(CONTENT) - (1_000_000 if isinstance(fault, Cut) else 0)


async def test_a_mirror_that_is_gone_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    node = Node(tmp_path / "a", hub)
    found = await node.pull("--mirror", "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert found.returncode == 1
    assert "no mirror gave m-" in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr


async def test_only_what_the_lock_file_names_and_is_whole_is_served(
    nats_server: EmbeddedServer, hub: Hub, tmp_path: Path
) -> None:
    import httpx2

    node = Node(tmp_path / "a", hub, nats_server)
    await node.pull()
    (node.models / "secret").write_text("x")
    async with node.serving() as process:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().split()[-1]
        async with httpx2.AsyncClient(base_url=url) as http:
            for path in ("/", "/secret", "/sha256/secret", "/sha256/..%2Fsecret", "/sha256/" + "0" * 64):
                assert (await http.get(path)).status_code == 404
            (file,) = node.models.glob("*.gguf")
            verified = (await asyncio.to_thread(node.run, "verify")).returncode
            assert verified == EXIT_NO_ANSWERS, "as locked, and bytes by chance"
            locked = (tmp_path / "a" / "lock").read_text()
            sha256 = re.search(r'sha256 = "(\w+)"', locked)
            assert sha256 is not None
            part = await http.get(f"/sha256/{sha256[1]}", headers={"Range": "bytes=10-19"})
            assert (part.status_code, part.content) == (206, file.read_bytes()[10:20])
