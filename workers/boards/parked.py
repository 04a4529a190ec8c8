"""Conversations of models that a board has not loaded: in memory, within one bound, and given to other boards' workers.

What the supervisor calls. A worker with `worker_flags` writes what it has into the folder when it is drained, tells the
directory that the board gives it, and takes up what it finds there when it starts. So a model's conversations are given
from `start` on, best when its worker starts, and without a gap; `found` says of conversations whose worker was killed,
or that an earlier supervisor left, that they are here. `bound` says how much there may be, at any time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from nats.aio.client import Client as NatsConnection

from workers.health import guarded
from workers.kv.answering import Answering
from workers.kv.board_folder import BoardFolder
from workers.kv.board_store import KeptStates, giver_name
from workers.kv.directory import Directory
from workers.kv.engine_port import NoContext
from workers.kv.giver import Giver

MEMORY = Path("/dev/shm")
"""Where Linux has files in memory."""

log = logging.getLogger(__name__)


def default_folder(board: str) -> Path | None:
    """Where a board's conversations are kept unless it is told: this user's own, by the board's name. None on a system
    without files in memory."""
    return MEMORY / f"turnpike-{os.geteuid()}-{board}" if MEMORY.is_dir() else None


@dataclass(frozen=True)
class _Given:
    """One model's conversations while the board gives them."""

    states: KeptStates
    answering: Answering
    directory: Directory


class Parked:
    """What one board keeps, on its connection. From one asyncio loop; `bound` and `num_bytes` from any thread."""

    def __init__(
        self,
        nc: NatsConnection,
        board: str,
        folder: Path,
        max_bytes: int,
        *,
        disk: Path | None = None,
        max_bytes_per_second: float = 50e6,
    ) -> None:
        """At most `max_bytes` of memory over all models; `disk` is the workers' --kv-dir, if they have a disk. At most
        so many bytes a second are given away. Blocks for a moment; raises TurnpikeError where the folder is somebody
        else's or cannot be made."""
        self._nc = nc
        self._board = board
        self._folder = BoardFolder(folder)
        self._disk = disk
        self._max_bytes_per_second = max_bytes_per_second
        self._given: dict[str, _Given] = {}
        self._folder.belongs_to(board)
        self._folder.bound(max_bytes)

    @property
    def worker_flags(self) -> tuple[str, ...]:
        """For every worker that this board starts."""
        return ("--board-dir", str(self._folder.path))

    @property
    def num_bytes(self) -> int:
        """Of memory that conversations take just now."""
        return self._folder.num_bytes

    @property
    def models(self) -> list[str]:
        """Those that conversations are kept of: at a supervisor's own start, those to call `found` for."""
        return self._folder.models

    def bound(self, max_bytes: int) -> int:
        """At most so much from now on: what was unused for longest is let go at once; how many bytes are left. Waits
        for a state that is just written. Raises TurnpikeError."""
        return self._folder.bound(max_bytes)

    async def start(self, model: str, group: asyncio.TaskGroup) -> None:
        """Gives from now on what the model's workers leave here, each request in a task of `group`. At the first one's
        serving, or later; again after that does no harm, and is needed where the model's file has changed. Nothing
        where no worker of the model was here yet. Raises nats.errors.Error."""
        layout = await asyncio.to_thread(self._folder.layout, model)
        given = self._given.get(model)
        if layout is None or (given is not None and given.states.layout == layout):
            return
        await self.stop(model)
        name = giver_name(self._board, model)
        states = KeptStates(self._folder, model, layout, self._disk)
        rate = self._max_bytes_per_second
        giver = Giver(NoContext(), states, layout, states.recall, max_bytes_per_second=rate)
        answering = Answering(self._nc, name, giver)
        directory = Directory(self._nc, layout, model=model, worker=name, is_on=True, is_swapped=True)
        await answering.start(group)
        self._given[model] = _Given(states, answering, directory)
        log.info("gives model=%s as=%s", model, name)

    async def found(self, model: str, group: asyncio.TaskGroup) -> None:
        """The model has no worker here: gives what is there, and tells the directory so, as far as that worker has not.
        Comes back when it is told."""
        await self.start(model, group)
        if (given := self._given.get(model)) is not None:
            told = given.directory.announce_cached(given.states, given.states.recall)
            await guarded("the directory", told)

    async def stop(self, model: str) -> None:
        """Gives no more of a model. One that nothing is given of is no error."""
        if (given := self._given.pop(model, None)) is not None:
            await given.answering.stop()

    async def close(self) -> None:
        """Gives nothing more; what is kept stays for the board's next start."""
        for model in [*self._given]:
            await self.stop(model)

    def clear(self) -> int:
        """Lets all of it go: the board is not coming back. Bytes that are left. Raises TurnpikeError."""
        return self._folder.bound(0)
