"""Commands as somebody runs them: with pipes, or on a terminal of their own where ^C is a key."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import termios
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg

from broker.accounts import LOCAL, write_credentials
from broker.server import EmbeddedServer
from tests.support import TURNPIKE

INTERRUPTED = 130
PROMPTED = ">\x08\x1b[2C"
"""As an editor draws its prompt with nothing behind it."""
SAID_SECONDS = 40.0
AT_ONCE_SECONDS = 2.0
"""A second is what is meant; the machine may be busy."""


@dataclass
class Command:
    """A command as it runs, with what it has said so far. On a terminal both outputs are one."""

    process: asyncio.subprocess.Process
    said: str = ""
    _terminal: int | None = None
    _typed: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, data: bytes) -> None:
        self.said += data.decode("utf-8", "replace")
        self._changed.set()

    async def until_it_says(self, text: str, behind: int = 0) -> None:
        try:
            async with asyncio.timeout(SAID_SECONDS):
                while text not in self.said[behind:]:
                    assert self.process.returncode is None, self.said
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"it has not said {text!r}: {self.said[behind:]!r}") from None

    async def until_it_prompts(self) -> None:
        """Until a line can be typed, after what was typed last and behind the answer's end: one of before is none."""
        await self.until_it_says(PROMPTED, behind=max(self._typed, self.said.rfind("[stop: ")))

    def type(self, text: str) -> None:
        assert self._terminal is not None
        self._typed = len(self.said)
        os.write(self._terminal, text.encode(errors="surrogateescape"))

    async def leaves(self) -> int:
        """The exit code after two ^C at the prompt."""
        await self.until_it_prompts()
        self.type("\x03")
        await self.until_it_says("[^C again, or ^D, ends]", behind=self._typed)
        await self.until_it_prompts()
        return await self.interrupted()

    async def ends(self, within: float = 60) -> int:
        return await asyncio.wait_for(self.process.wait(), within)

    async def interrupted(self) -> int:
        """The exit code after one ^C."""
        started = time.perf_counter()
        if self._terminal is not None:
            self.type("\x03")
        else:
            self.process.send_signal(signal.SIGINT)
        code = await self.ends()
        assert time.perf_counter() - started < AT_ONCE_SECONDS, self.said
        return code


@dataclass
class Bench:
    """A server's accounts in files, and a way to start commands there."""

    server: EmbeddedServer
    folder: Path

    def credentials(self, user: str) -> str:
        path = self.folder / f"{user}.credentials"
        write_credentials(path, self.server.address(user))
        return str(path)

    @asynccontextmanager
    async def command(self, *arguments: str, user: str = LOCAL) -> AsyncIterator[Command]:
        """With pipes."""
        login = ["--credentials", self.credentials(user)]
        async with started([*arguments, *login], self.folder) as command:
            yield command

    @asynccontextmanager
    async def terminal(self, *arguments: str) -> AsyncIterator[Command]:
        """On a terminal of its own, where ^C is a key."""
        async with on_a_terminal([*arguments, "--credentials", self.credentials(LOCAL)]) as command:
            yield command


@asynccontextmanager
async def on_a_terminal(arguments: list[str], environment: Mapping[str, str] | None = None) -> AsyncIterator[Command]:
    """A command on a terminal of its own, with more in its environment."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *TURNPIKE,
        *arguments,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", **(environment or {})},
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(theirs)
    command = Command(process, _terminal=ours)
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other side is closed
            data = b""
        if data:
            command.take(data)
        else:
            loop.remove_reader(ours)
            command._changed.set()

    loop.add_reader(ours, read)
    try:
        yield command
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        loop.remove_reader(ours)
        os.close(ours)


def _take_terminal() -> None:
    """Of a new session: its standard input becomes the session's own, or ^C would be nobody's."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@asynccontextmanager
async def started(arguments: list[str], folder: Path) -> AsyncIterator[Command]:
    process = await asyncio.create_subprocess_exec(
        *TURNPIKE,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
    )
    command = Command(process)

    async def read(stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while data := await stream.read(65536):
            command.take(data)
        command._changed.set()

    async with asyncio.TaskGroup() as readers:
        readers.create_task(read(process.stdout))
        readers.create_task(read(process.stderr))
        try:
            yield command
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def output(bench: Bench, *arguments: str, user: str = LOCAL, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *TURNPIKE,
        *arguments,
        "--credentials",
        bench.credentials(user),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=bench.folder,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    except TimeoutError:
        process.kill()
        raise
    return process.returncode or 0, out.decode(), err.decode()


class Queued:
    """Hears every turn that is queued."""

    def __init__(self, nc: NatsConnection) -> None:
        self.nc = nc
        self._turns: asyncio.Queue[Msg] = asyncio.Queue(maxsize=100)

    async def listen(self) -> None:
        await self.nc.subscribe("turn.>", cb=self._turns.put)
        await self.nc.flush()

    async def one(self) -> Msg:
        return await asyncio.wait_for(self._turns.get(), 60)


ITEM = json.dumps({"context": "The fan is", "choices": [" loud", " green"], "label": 0}) + "\n"
PLAN = 'name = "p"\n[[models]]\nmodel = "m"\n'
