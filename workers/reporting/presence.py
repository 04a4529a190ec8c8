"""How others see a worker: what it can, that it leaves, and that all workers of a model have the same file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.micro.service import Service

from broker import discovery
from broker.discovery import CHAT, OF_RELEASE, RAW, SCORE, THINKING, TOOLS, Load, WorkerInfo
from broker.errors import OtherFile, TurnRejected
from broker.messages import Message
from broker.process import pid_namespace
from workers.prompts.rendered import Renderer
from workers.worker_options import WorkerOptions

PLAIN_ABILITIES = (RAW, SCORE, *OF_RELEASE)
"""Of a worker whose model has no chat template."""
MAX_LOOKS = 20
"""At the start, while one with another file that came later has neither gone nor begun to serve."""
STOP_SECONDS = 1.0
"""How long a worker that stops waits for a server that does not answer."""

log = logging.getLogger(__name__)


async def abilities(renderer: Renderer, *, has_thoughts: bool = False) -> tuple[str, ...]:
    """What a worker can with this template: chat where it tells a plain question, and tools with it, as a template that
    has none for them is given them as text; thinking where answers have thoughts."""
    try:
        await renderer.render((Message("user", "Hello."),))
    except TurnRejected as error:
        log.warning("no chat, prompts without a template only: %s", error.detail)
        return PLAIN_ABILITIES
    return (CHAT, RAW, SCORE, TOOLS, *OF_RELEASE, *((THINKING,) if has_thoughts else ()))


def metadata(options: WorkerOptions, num_ctx: int) -> dict[str, str]:
    """What others are told of a worker that does not change, in discovery's words; `num_ctx` is its longest sequence in
    tokens."""
    return {
        "worker": options.name,
        "model": options.model,
        "model_name": options.model_name,
        "quantization": options.quantization,
        "num_ctx": str(num_ctx),
        "node": options.node,
        "pid": str(os.getpid()),
        "pid_namespace": pid_namespace(),
        "facts": json.dumps(dict(options.facts)),
        "fingerprint": options.fingerprint,
        "file_bytes": options.facts.get("file_bytes", ""),
        "can": " ".join(options.can),
    }


class Presence:
    """A worker among others. It is seen from `start` on, chosen from `serve` to `leave`, and gone after `stop`."""

    def __init__(self, nc: NatsConnection, metadata: Mapping[str, str], *, look_seconds: float) -> None:
        """`metadata` as discovery wants it; `look_seconds` is how long others have to answer at the start."""
        self._nc = nc
        self._since = time.time()
        self._metadata = {**metadata, "since": repr(self._since), "state": discovery.STARTING}
        """As it is told to whoever asks: the service reads it each time."""
        self._look_seconds = look_seconds
        self._service: Service | None = None

    @property
    def state(self) -> str:
        """STARTING, SERVING or DRAINING, as others see it."""
        return self._metadata["state"]

    async def start(self, load: Callable[[], Load], *, version: str, may_differ: bool) -> None:
        """Announces the worker, whose load is asked for each time. Raises OtherFile where others serve the model from
        another file, unless that is allowed: then it is told."""
        self._service = await discovery.announce(self._nc, version=version, metadata=self._metadata, load=load)
        # Announced first: of two that start at once each sees the other, and one of them goes.
        for _ in range(MAX_LOOKS):
            found = [one for one in await discovery.find_workers(self._nc, self._look_seconds) if self._differs(one)]
            for other in found:
                if self._goes_before(other):
                    await self._give_way(other, may_differ=may_differ)
            # One that came later goes, if it has seen this one: it may have looked before this one could be seen.
            if may_differ or all(self._goes_before(other) for other in found):
                return

    async def _give_way(self, other: WorkerInfo, *, may_differ: bool) -> None:
        error = OtherFile(self._metadata["model"], other.worker, other.node)
        if not may_differ:
            await self.stop()
            raise error
        log.warning("! %s", error)

    def _differs(self, other: WorkerInfo) -> bool:
        """Whether it is a worker of the model with another file, and one that stays."""
        mine = self._metadata
        if other.model != mine["model"] or other.load.state == discovery.DRAINING:
            return False
        if other.fingerprint and mine["fingerprint"]:
            return other.fingerprint != mine["fingerprint"]
        size = mine["file_bytes"]
        return bool(size) and other.file_bytes is not None and str(other.file_bytes) != size  # an earlier release

    def _goes_before(self, other: WorkerInfo) -> bool:
        """Whether this one has to go: the other serves, or came earlier."""
        is_starting = other.load.state == discovery.STARTING
        return not is_starting or (other.since, other.worker) < (self._since, self._metadata["worker"])

    def serve(self) -> None:
        """From now on it takes turns, and others may choose it."""
        self._metadata["state"] = discovery.SERVING

    async def leave(self) -> None:
        """Says that the worker takes itself out; comes back when the server has heard it."""
        if self.state == discovery.DRAINING:
            return
        self._metadata["state"] = discovery.DRAINING
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await discovery.tell_departure(self._nc, self._metadata["model"], self._metadata["worker"])
            await asyncio.wait_for(self._nc.flush(), STOP_SECONDS)

    async def stop(self) -> None:
        """Not seen any more."""
        await self.leave()
        service, self._service = self._service, None
        if service is not None:
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await asyncio.wait_for(service.stop(), STOP_SECONDS)
