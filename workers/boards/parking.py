"""What a board does about conversations of models that it has not loaded: kept within what its plan leaves, given to
whoever asks. That it cannot be done is told, and costs a computation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

import nats.errors

from broker.errors import TurnpikeError
from workers.boards.parked import Parked

GRAIN_BYTES = 16 * 1024 * 1024
"""A bound that is other by less is the same one."""
CLOSE_SECONDS = 2.0
"""For the server, which may be away, to hear that nothing is given any more."""

log = logging.getLogger(__name__)


class Parking:
    """A board's; nothing is kept where there is no `parked`."""

    def __init__(self, parked: Parked | None, most: int, group: asyncio.TaskGroup) -> None:
        """At most `most` bytes. What is given is given by tasks of `group`."""
        self._parked = parked
        self._most = most
        self._group = group
        self._bound = most

    @property
    def num_bytes(self) -> int:
        """Of memory, just now."""
        return 0 if self._parked is None else self._parked.num_bytes

    async def fit(self, left_bytes: int) -> None:
        """The plan of what is loaded leaves so many bytes: no more is kept."""
        bound = max(0, min(self._most, left_bytes - left_bytes % GRAIN_BYTES))
        if self._parked is None or bound == self._bound:
            return
        try:
            await asyncio.to_thread(self._parked.bound, bound)
            self._bound = bound
        except (TurnpikeError, OSError) as error:
            log.warning("parked conversations not bounded bytes=%d error=%s", bound, error)

    def began(self) -> None:
        """What an earlier board left is given."""
        for model in self._parked.models if self._parked is not None else ():
            self.lost(model)

    def serving(self, model: str) -> None:
        """Its worker serves: what it leaves is given from its end on."""
        if self._parked is not None:
            self._group.create_task(self._tried(self._parked.start(model, self._group), model))

    def lost(self, model: str) -> None:
        """Its worker has ended and did not say what it left."""
        if self._parked is not None:
            self._group.create_task(self._tried(self._parked.found(model, self._group), model))

    async def close(self) -> None:
        """Nothing is given any more; what is kept stays for the next start."""
        if self._parked is not None:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._parked.close()
            except (nats.errors.Error, TimeoutError) as error:
                log.info("parked conversations not closed error=%s", error)

    async def _tried(self, giving: Coroutine[object, object, None], model: str) -> None:
        try:
            await giving
        except (TurnpikeError, nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("conversations not given model=%s error=%s", model, error)
