"""A broker, a worker and a gateway instead of a llama-server: kept for all tests that want the same."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.accounts import api_key_digest, write_credentials
from producers.local_system import LocalSystem, local_system
from tests.support import ROOT, TURNPIKE, free_port

MOST_SYSTEMS = 3
START_SECONDS = 60.0
LOOK_SECONDS = 0.02
NAMES = (
    "gpt-3.5-turbo",
    "gpt-3.5-turbo-instruct",
    "davinci-002",
    "gpt-4.1",
    "codellama70b",
    "text-embedding-3-small",
    "test",
)
"""What the suite calls the one model that there is: policies, whose names may be any."""


@dataclass(frozen=True)
class Behind:
    """What answers: a worker of a model, by its flags."""

    name: str
    model: Path
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Door:
    """How it is asked: a gateway, by its flags, and the one key that it knows."""

    flags: tuple[str, ...] = ()
    key: str | None = None


@dataclass
class _System:
    system: LocalSystem
    stack: AsyncExitStack
    folder: Path
    gateways: dict[Door, tuple[subprocess.Popen[bytes], int]] = field(default_factory=dict)

    def close_gateways(self) -> None:
        for process, _ in self.gateways.values():
            process.terminate()
        for process, _ in self.gateways.values():
            process.wait(30)
        self.gateways.clear()


class Systems:
    """Those that run, the one that was used last at the end. What they are made of is asyncio's, tests are not."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._running: dict[Behind, _System] = {}

    def port_of(self, behind: Behind, door: Door, before: int | None = None, *, is_fresh: bool = False) -> int:
        """Of a gateway that is ready, in the place of another one that had the port `before`. A fresh one has nothing
        in its caches."""
        if is_fresh and behind in self._running:
            self._close(behind)
        found = self._running.pop(behind, None)
        if found is None:
            while len(self._running) >= MOST_SYSTEMS:
                self._close(next(iter(self._running)))
            found = self._await(self._open(behind))
        self._running[behind] = found
        if door not in found.gateways:
            if before is not None:
                self._close_gateway(before)
            found.gateways[door] = self._gateway(found, door, before or free_port())
        return found.gateways[door][1]

    def close(self) -> None:
        """Ends all of them."""
        for behind in [*self._running]:
            self._close(behind)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await[T](self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self, behind: Behind) -> _System:
        stack = AsyncExitStack()
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(stack.aclose)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnpike-llama-server-")))
            made = local_system(
                ROOT / "turnpike", folder, model=behind.name, model_file=behind.model, flags=behind.flags
            )
            system = await stack.enter_async_context(made)
            undo.pop_all()
        return _System(system, stack, folder)

    def _close(self, behind: Behind) -> None:
        found = self._running.pop(behind)
        found.close_gateways()
        self._await(found.stack.aclose())

    def _close_gateway(self, at: int) -> None:
        for system in self._running.values():
            for door in [door for door, (_, port) in system.gateways.items() if port == at]:
                process, _ = system.gateways.pop(door)
                process.terminate()
                process.wait(30)

    def _gateway(self, system: _System, door: Door, port: int) -> tuple[subprocess.Popen[bytes], int]:
        write_credentials(system.folder / "gateway.credentials", system.system.gateway_address)
        command = [*TURNPIKE, "gateway", "--credentials", str(system.folder / "gateway.credentials")]
        command += ["--gateway-port", str(port), "--routes", str(self._routes(system)), *door.flags]
        if door.key is not None:
            keys = system.folder / f"keys-{port}.toml"
            keys.write_text(f'[clients.tests]\nsha256 = ["{api_key_digest(door.key)}"]\n')
            command += ["--keys", str(keys)]
        with (system.folder / f"gateway-{port}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        _until(lambda: _is_ready(port), process, system.folder / f"gateway-{port}.log")
        return process, port

    @staticmethod
    def _routes(system: _System) -> Path:
        path = system.folder / "routes.toml"
        path.write_text('default = "auto"\n' + "".join(f'[policies."{name}"]\n' for name in NAMES))
        return path


def _until(look: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises RuntimeError where the process ends first, as llama-server's own does."""
    end = time.monotonic() + START_SECONDS
    while not look():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            process.wait()
            raise RuntimeError(f"the gateway ended with code {process.returncode}: {log.read_text()[-500:]}")
        time.sleep(LOOK_SECONDS)


def _is_ready(port: int) -> bool:
    """Whether it sees its worker."""
    url = f"http://127.0.0.1:{port}/ready"
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=5) as answer:
        return b'"workers":0' not in answer.read()
    return False
