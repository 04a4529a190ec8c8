"""A whole cluster of processes in one folder, for runs that break or besiege it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from broker.accounts import BOARD, GATEWAY, OPERATOR, SIDECAR, WORKER, read_credentials
from broker.connection import Address, close, connect
from broker.errors import TurnpikeError
from broker.process import spawn
from tests.support import ROOT, free_port

START_SECONDS = 60.0
LOOK_SECONDS = 0.05

Process = asyncio.subprocess.Process


class Cluster:
    """Starts the parts, each with a log of its own in the folder; `close` ends all of them."""

    def __init__(
        self,
        folder: Path,
        model: str,
        *,
        host: str = "127.0.0.1",
        ack_wait_seconds: float = 3.0,
        log_level: str = "WARNING",
    ) -> None:
        self.folder = folder
        self.model = model
        self._host = host
        self._ack_wait_seconds = ack_wait_seconds
        self._log_level = log_level
        self._port = free_port()
        self.broker: Process | None = None
        self.parts: list[Process] = []
        """All but the broker, also those that have ended."""

    def credentials(self, user: str) -> Path:
        return self.folder / "data" / f"{user}.credentials"

    def address(self, user: str) -> Address:
        return read_credentials(self.credentials(user))

    async def _spawn(
        self,
        name: str,
        *arguments: str | Path,
        inside: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        log_level: str | None = None,
    ) -> Process:
        command = [*inside, sys.executable, ROOT / "turnpike", *arguments]
        command += ["--log-level", log_level or self._log_level]
        with (self.folder / f"{name}.log").open("ab") as log:
            return await spawn(command, stdout=log.fileno(), stderr=log.fileno(), env=dict(env or {}))

    async def start_broker(self) -> None:
        """Comes back when it serves; on the data that it left, where it ran before."""
        where = ("--data-dir", self.folder / "data", "--host", self._host, "--port", str(self._port))
        limits = ("--model", self.model, "--ack-wait-seconds", str(self._ack_wait_seconds))
        self.broker = await self._spawn("broker", "broker", *where, *limits)
        async with asyncio.timeout(START_SECONDS):
            while True:
                with suppress(TurnpikeError, OSError):
                    await close(await connect(self.address(OPERATOR), name="probe", timeout=1))
                    return
                assert self.broker.returncode is None, f"the broker ended: {self.folder / 'broker.log'}"
                await asyncio.sleep(LOOK_SECONDS)

    async def start_worker(
        self,
        name: str,
        *flags: str | Path,
        inside: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Does not wait until it serves."""
        who = ("--credentials", self.credentials(WORKER), "--worker-name", name, "--model", self.model)
        process = await self._spawn(name, "worker", *who, *flags, inside=inside, env=env)
        self.parts.append(process)
        return process

    async def start_board(self, name: str, *flags: str | Path, inside: tuple[str, ...] = ()) -> Process:
        """Does not wait until it says anything. Its log tells what it loads."""
        who = ("--credentials", self.credentials(BOARD), "--node", name, "--data-dir", self.folder / "boards")
        kept = ("--board-dir", self.folder / "kept" / name)
        process = await self._spawn(name, "board", *who, *kept, *flags, inside=inside, log_level="INFO")
        self.parts.append(process)
        return process

    async def start_gateway(self, *flags: str | Path) -> int:
        """Its port, once it answers there."""
        port = free_port()
        where = ("--credentials", self.credentials(GATEWAY), "--gateway-port", str(port))
        process = await self._spawn("gateway", "gateway", *where, *flags)
        self.parts.append(process)
        await until_open(port, process)
        return port

    async def start_sidecar(self, *flags: str | Path) -> Process:
        process = await self._spawn("sidecar", "sidecar", "--credentials", self.credentials(SIDECAR), *flags)
        self.parts.append(process)
        return process

    async def close(self) -> None:
        for process in (*self.parts, self.broker):
            if process is not None and process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
                process.kill()
                await process.wait()


async def until_open(port: int, process: Process) -> None:
    """Until somebody listens at the port of a process that still runs."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            assert process.returncode is None, f"it ended with {process.returncode}"
            await asyncio.sleep(LOOK_SECONDS)
