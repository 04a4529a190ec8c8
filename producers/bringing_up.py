"""What a command that asks a model needs, for as long as it does: a broker where none runs, a worker where nobody
serves the model."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from broker import subjects
from broker.accounts import LOCAL, OPERATOR, WORKER
from broker.availability import has_queue
from broker.client import Client
from broker.connection import Address, close, connect
from broker.errors import NotLoaded, NotServed, Refused, ServerUnavailable, UnservedModel
from broker.process import temporary_folder
from broker.server import EmbeddedServer
from broker.topology import ensure
from producers.local_system import LocalSystemFailed, StartedWorker, started_worker
from producers.terminal.printing import waiting

SIZE_IS_TOLD_BYTES = 10_000_000
"""Of a file that takes a moment to load."""
MAX_DEATHS = 3
"""How often a worker that has ended by itself is followed by another one."""

log = logging.getLogger(__name__)


class LocalModel(Struct, frozen=True):
    """A model whose file is on this machine."""

    model: str
    """Its name on the wire."""
    flags: tuple[str | Path, ...] = ()
    """With which a worker takes it."""
    size_bytes: int = 0


Find = Callable[[str], LocalModel | None]
"""The model of that name, where its file is here; None for a name that nothing is known of here. Raises TurnpikeError
for one that could be here and is not, saying how it is had."""


class ForTheWhile:
    """A broker's address at which models are served, by those who do so anyway or by workers that it starts, and stops
    at its end."""

    def __init__(
        self,
        address: Address,
        entry: Path,
        *,
        find: Find,
        may_start: bool,
        accounts: Mapping[str, Address],
        say: Callable[[str], object],
    ) -> None:
        """Without `may_start` the broker is taken as it is: somebody has named it. `accounts` are those of the broker
        at `address`, for whoever may have queues made and workers started there; `entry` is the folder turnpike/."""
        self.address = address
        self._entry, self._find, self._say = entry, find, say
        self._may_start = may_start
        self._accounts = dict(accounts)
        self._numbers = itertools.count(1)
        self._stack = AsyncExitStack()
        self._keeping: list[asyncio.Future[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await self._stack.aclose()

    async def serve(self, name: str) -> str:
        """Comes back once turns for the model are answered, or where that is for the caller to find out: what it is
        called on the wire, where a file was named.

        Raises ServerUnavailable where there is no broker and nothing is known of the model, what `find` raises,
        LocalSystemFailed where a worker does not come up.
        """
        found = None if subjects.is_token(name) else self._find(name)
        model = name if found is None else found.model
        try:
            nc = await connect(self.address, name="turnpike-probe")
        except ServerUnavailable as error:
            # A broker that does not let us in is one all the same, and holds the port.
            if not self._may_start or isinstance(error, Refused):
                raise
            if (found := found or self._find(name)) is None:
                self._say(f"no model of this machine is called {name}: `turnpike models list` lists them")
                raise
            self._say(f"no broker runs here: starting one for the while, and {_told(found)}")
            await self._start_broker()
        else:
            client = Client.on(nc, self.address.user)
            try:
                if not self._may_start or self.address.wait or await _is_answered(client, model):
                    return model
            finally:
                await close(nc)
            if not self._accounts or (found := found or self._find(name)) is None:
                return model
            self._say(f"nobody serves {found.model}: starting {_told(found)} for the while")
        await self._start_worker(found)
        return model

    async def _start_broker(self) -> None:
        folder = self._stack.enter_context(temporary_folder("turnpike-local-"))
        server = await self._stack.enter_async_context(EmbeddedServer(folder / "server"))
        self._accounts = {user: server.address(user) for user in (LOCAL, OPERATOR, WORKER)}
        self.address = self._accounts[LOCAL]

    async def _start_worker(self, found: LocalModel) -> None:
        nc = await connect(self._accounts[OPERATOR], name="turnpike-ensure")
        try:
            if not await has_queue(nc, found.model):  # one that is there has bounds that somebody chose
                await ensure(nc, [found.model])
        finally:
            await close(nc)
        worker = await self._worker(found)
        async with Client(self.address) as client:
            with waiting(f"loading {found.model}; ^C ends"):
                await _until_served(worker, client)
        self._keeping.append(asyncio.ensure_future(self._keep(found, worker)))

    async def _keep(self, found: LocalModel, worker: StartedWorker) -> None:
        """Where the worker ends by itself another one goes on with its turns: who waits for them is told by the queue,
        and nothing is written into an answer."""
        for _ in range(MAX_DEATHS):
            code = await worker.process.wait()
            log.info("worker ended worker=%s code=%s: %s", worker.name, code, worker.last_line)
            worker = await self._worker(found)

    async def _worker(self, found: LocalModel) -> StartedWorker:
        folder = self._stack.enter_context(temporary_folder("turnpike-worker-"))
        return await started_worker(
            self._stack,
            self._entry,
            folder,
            self._accounts[WORKER],
            name=f"local-{os.getpid()}-{next(self._numbers)}",
            flags=("--model", found.model, *found.flags),
        )


async def _until_served(worker: StartedWorker, client: Client) -> None:
    """Raises LocalSystemFailed where it ends before."""
    served = asyncio.ensure_future(worker.until_served(client))
    died = asyncio.ensure_future(worker.process.wait())
    try:
        await asyncio.wait({served, died}, return_when=asyncio.FIRST_COMPLETED)
        if not served.done():
            raise LocalSystemFailed(f"the worker ended with code {died.result()}: {worker.last_line}")
        served.result()
    finally:
        for task in (served, died):
            task.cancel()
        await asyncio.gather(served, died, return_exceptions=True)


async def _is_answered(client: Client, model: str) -> bool:
    """Whether a worker serves the model, or a board says what becomes of it."""
    try:
        await client.until_served(model)
    except NotLoaded:
        return True
    except (NotServed, UnservedModel):
        return False
    return True


def _told(found: LocalModel) -> str:
    size = f", {found.size_bytes / 1e9:.2f} GB" if found.size_bytes >= SIZE_IS_TOLD_BYTES else ""
    return f"a worker of {found.model}{size}"
