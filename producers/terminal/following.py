"""A turn as somebody at a terminal follows it: told where it waits and that nobody serves it, and stopped at once."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import nats.errors

from broker.answer import Answer
from broker.availability import unserved
from broker.client import Client
from broker.errors import PublishError, QueueFull
from broker.messages import Chunk, Sampling
from broker.model_status import ModelStatus, is_coming
from broker.retrying import retried
from producers.routing.waiting import LOOK_SECONDS, is_served, ready
from producers.terminal.printing import counted

QUIET_SECONDS = 5.0
"""An answer that says nothing for so long may have lost its worker."""
GIVE_UP_SECONDS = 60.0
"""How long a turn that is queued waits for a worker that has gone: about what a restart takes."""
STOP_SECONDS = 0.35
"""How long a cancelled turn's end is waited for by somebody who has pressed ^C."""
RETRY_SECONDS = 1.0
MAX_SEED = 2**32


def with_seed(sampling: Sampling, is_seeded: bool) -> Sampling:
    """With a seed of its own where tokens are drawn and none was given: each turn draws otherwise."""
    if is_seeded or not sampling.temperature:
        return sampling
    return msgspec.structs.replace(sampling, seed=secrets.randbelow(MAX_SEED))


@dataclass
class Following:
    """One turn from before it is queued to its end. `say` tells people what it waits for.

    `wait_seconds` are for a worker to come, or a full queue to have room. `tells_place`: also how long the line is.
    `stop_seconds`: how long the end of a turn that was stopped is waited for.
    """

    client: Client
    answer: Answer
    show: Callable[[Chunk], object]
    say: Callable[[str], object]
    wait_seconds: float = 0.0
    tells_place: bool = True
    stop_seconds: float = STOP_SECONDS
    was_stopped: bool = False
    _heard_at: float = field(default_factory=time.perf_counter)
    _told_state: str = ""

    async def until(self, stop: asyncio.Event) -> None:
        """Streams it; `stop` cancels it and comes back at once, whether or not its end has come.

        Raises NotServed where nobody serves the model, PublishError, TurnFailed, ServerError.
        """
        reading = asyncio.ensure_future(self._read())
        watching = asyncio.ensure_future(self._watch())
        stopping = asyncio.ensure_future(stop.wait())
        tasks = (reading, watching, stopping)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() and (stopping.done() or watching.done()):
                self.was_stopped = stopping.done()
                await self._cancel(reading)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if watching.done() and not watching.cancelled():
            watching.result()
        if not reading.cancelled() and not self.was_stopped:
            reading.result()

    async def _read(self) -> None:
        status = await ready(self.client, self.answer.model, self.wait_seconds, self.say)
        self._told_state = status.state if status is not None else ""
        await self._publish()
        async for chunk in self.answer:
            self._heard_at = time.perf_counter()
            self.show(chunk)

    async def _publish(self) -> None:
        """Raises QueueFull where the queue has no room for as long as is waited."""
        has_told = False

        def tell(_: Exception) -> None:
            nonlocal has_told
            if not has_told:
                full = f"the queue of {self.answer.model} is full"
                self.say(f"{full}: trying again for up to {self.wait_seconds:g} s; ^C ends")
            has_told = True

        await retried(self.answer.publish, after=QueueFull, delay=RETRY_SECONDS, patience=self.wait_seconds, tell=tell)

    async def _watch(self) -> None:
        """Tells what the queued turn waits for; raises NotServed when nobody has served it for too long."""
        unserved_since: float | None = None
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.answer.acknowledged_at is None or self._is_answered:
                unserved_since = None
            elif await is_served(self.client, self.answer.model):
                unserved_since = None
                await self._tell_place()
            elif is_coming(status := await self.client.status(self.answer.model)):
                unserved_since = None
                await self._tell_status(status)
            elif unserved_since is None:
                unserved_since = time.perf_counter()
                model = self.answer.model
                why = f"nobody serves {model} just now" if status is None else f"{model} {status.words()}"
                self.say(f"{why}: the turn waits for a worker; ^C stops it")
            elif time.perf_counter() - unserved_since > max(GIVE_UP_SECONDS, self.wait_seconds):
                raise unserved(self.answer.model, status)

    @property
    def _is_answered(self) -> bool:
        """Whether its answer has begun, and goes on."""
        is_quiet = time.perf_counter() - self._heard_at > QUIET_SECONDS
        return self.answer.started is not None and not is_quiet

    async def _tell_place(self) -> None:
        if self.tells_place and (place := await self._place()) and not self._is_answered:
            self.say(place)

    async def _place(self, status: ModelStatus | None = None) -> str:
        """For people; empty while nobody tells. Until turns are seen to move, what its board tells says when."""
        if (place := await self.answer.place()) is None:
            return ""
        seconds = place.seconds
        if seconds is None and status is not None and place.turns_ahead:
            seconds = status.wait_seconds(place.turns_ahead)
        when = "" if seconds is None else f", about {seconds:.0f} s"
        return f"{counted(place.turns_ahead, 'turn')} ahead{when}"

    async def _tell_status(self, status: ModelStatus) -> None:
        """What a board does about the model: each time to who is told of the line too, to others where it changes."""
        if not self.tells_place and status.state == self._told_state:
            return
        self._told_state = status.state
        place = await self._place(status) if self.tells_place else ""
        if self._is_answered:  # while that was asked
            return
        self.say(f"{self.answer.model}: {status.words()}" + (f"; {place}" if place else ""))

    async def _cancel(self, reading: asyncio.Future[None]) -> None:
        """Stops the turn and waits a moment for its end; what is not there by then ends without a reader."""
        if not self.answer.may_run:
            return
        with contextlib.suppress(PublishError, nats.errors.Error, TimeoutError):
            async with asyncio.timeout(self.stop_seconds):
                await self.answer.cancel()
                await asyncio.wait({reading})
