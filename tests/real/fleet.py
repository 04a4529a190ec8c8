"""Workers of one model as processes of their own, on a nats-server of the test's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker.accounts import LOCAL, WORKER, write_credentials
from broker.answer import Answer
from broker.client import Client
from broker.messages import Done, Message, Sampling, TokenLogprob
from broker.process import spawn, terminate
from broker.server import EmbeddedServer
from broker.topology import Limits
from tests.support import ROOT

MODEL = "m"
ACK_WAIT_SECONDS = 3.0
START_SECONDS = 120.0


@dataclass
class Fleet:
    """Starts workers and ends them; each has one thread and a log in the folder."""

    client: Client
    _folder: Path
    _file: Path
    _flags: tuple[str, ...]
    _processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    _long: dict[str, Answer] = field(default_factory=dict)
    """Answers that keep a worker busy, by its name."""

    async def start(self, name: str, *flags: str) -> None:
        """Comes back when it serves."""
        credentials = self._folder / "worker.credentials"
        command: list[str | Path] = [sys.executable, ROOT / "turnpike", "worker", "--credentials", credentials]
        command += ["--worker-name", name, "--model", MODEL, "--model-file", self._file, "--threads", "1"]
        with (self._folder / f"{name}.log").open("ab") as log:
            process = await spawn([*command, *self._flags, *flags], stdout=log.fileno(), stderr=log.fileno())
        self._processes[name] = process
        async with asyncio.timeout(START_SECONDS):
            while not any(one.worker == name and one.is_serving for one in await self.client.workers()):
                assert process.returncode is None, (self._folder / f"{name}.log").read_text()[-2000:]

    async def stop(self, name: str) -> None:
        """As a rollout does: it writes to its disk what it has."""
        assert await terminate(self._processes.pop(name), grace=60) == 0

    async def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        await process.wait()

    async def keep_busy(self, name: str) -> None:
        """Has that worker, of one slot, answer something long, and no other one, until `let_go`."""
        for number in range(len(self._processes)):
            answer = Talk(self.client, f"long-{number}").ask("Count.", Sampling(max_tokens=3000, ignore_eos=True))
            async for _ in answer:
                break
            assert answer.started is not None
            self._long[answer.started.worker] = answer
            if name in self._long:
                break
        await asyncio.gather(*(self._long.pop(other).cancel() for other in [*self._long] if other != name))

    async def let_go(self) -> None:
        """Of whom `keep_busy` has kept."""
        for answer in self._long.values():
            await answer.cancel()
        self._long.clear()

    async def close(self) -> None:
        for name in [*self._processes]:
            await self.kill(name)


@asynccontextmanager
async def fleet(folder: Path, file: Path, *flags: str) -> AsyncIterator[Fleet]:
    """On a server of its own; `flags` are every worker's."""
    async with EmbeddedServer(folder / "server") as server:
        await server.ensure([MODEL], Limits(ack_wait_seconds=ACK_WAIT_SECONDS))
        write_credentials(folder / "worker.credentials", server.address(WORKER))
        async with Client(server.address(LOCAL)) as client:
            found = Fleet(client, folder, file, flags)
            try:
                yield found
            finally:
                await found.close()


@dataclass(frozen=True)
class Told:
    """An answer as its reader saw it."""

    done: Done
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]


async def read(answer: Answer) -> Told:
    """All of it, with what was told beside its tokens."""
    logprobs: list[TokenLogprob] = []
    tokens: list[int] = []
    async for chunk in answer:
        tokens += chunk.tokens
        logprobs += chunk.logprobs
    return Told(answer.done, tuple(tokens), tuple(logprobs))


class Talk:
    """A conversation, whose answers become its history as they were sent."""

    def __init__(self, client: Client, conversation: str) -> None:
        self._client = client
        self.conversation = conversation
        self.messages: list[Message] = []

    def ask(self, question: str, sampling: Sampling) -> Answer:
        """Its next turn; what is told is added to it by `told`."""
        self.messages.append(Message("user", question))
        return self._client.ask(MODEL, self.messages, conversation=self.conversation, sampling=sampling)

    def told(self, done: Done) -> None:
        self.messages.append(Message("assistant", done.text))

    async def next(self, question: str, sampling: Sampling) -> Told:
        """Asks and reads."""
        told = await read(self.ask(question, sampling))
        self.told(told.done)
        return told
