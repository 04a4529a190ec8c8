"""What tests of all kinds use: where the command is, free ports, locked files, waiting for what tells nobody of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from broker.catalogue import Locked, sha256_of, write_lock

ROOT = Path(__file__).parents[1]
TURNPIKE = [sys.executable, str(ROOT / "turnpike")]


NUM_PORTS = 2000
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
_FIRST_PORT = 12_000 + _PROCESS * NUM_PORTS
_PORTS = itertools.cycle(random.SystemRandom().sample(range(_FIRST_PORT, _FIRST_PORT + NUM_PORTS), NUM_PORTS))


def free_port() -> int:
    """A port that nobody else takes before who wants it does: the tests' processes have their own, and all are below
    those that the system gives to whoever connects."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a cycle has no end")


async def eventually[T](look: Callable[[], T], seconds: float = 30.0) -> T:
    """What `look` finds, once it finds something. For a database, which tells nobody that it has changed."""
    async with asyncio.timeout(seconds):
        while not (found := await asyncio.to_thread(look)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


def freeze(pid: int) -> None:
    """A child of ours stands still when this comes back; on a busy machine it goes on for a while."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


async def answer_to(nc: NatsConnection, subject: str, payload: bytes, seconds: float = 5.0) -> Msg:
    """What is answered there, once somebody listens: a worker may serve turns before it hears its peers."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(NoRespondersError):
                return await nc.request(subject, payload, timeout=seconds)


def lock_files(folder: Path, files: Mapping[str, Path]) -> None:
    """A folder's `lock` of these models, and its `models` with links to their files."""
    (folder / "models").mkdir(exist_ok=True)
    locked = {}
    for name, file in files.items():
        locked[name] = Locked("o/r", "c" * 40, file.name, sha256_of(file), file.stat().st_size)
        locked[name].path_in(folder / "models", name).symlink_to(file.resolve())
    write_lock(folder / "lock", locked)


class RunFolder:
    """Where a long run writes: a folder that was given and stays, or a temporary one that goes when all was well."""

    def __init__(self, name: str, given: str | None) -> None:
        self._is_given = given is not None
        self.path = Path(given) if given is not None else Path(tempfile.mkdtemp(prefix=f"turnpike-{name}-"))
        self.path.mkdir(parents=True, exist_ok=True)

    def all_was_well(self) -> None:
        if not self._is_given:
            shutil.rmtree(self.path, ignore_errors=True)


def argument(index: int) -> str | None:
    """Of the command line, where it was given and is not empty."""
    return (sys.argv[index] or None) if len(sys.argv) > index else None
