"""Cancels of what is still queued: ended without being computed, also while every worker is busy.

A turn is looked for by its subject. A conversation's turns, or all of a client's, want a look through that client's
queue: one at a time for each client, several cancels in one, and nothing is fetched a second time. No client's cancels
wait for another's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from msgspec import Struct

from broker import codec, subjects
from broker.errors import InvalidMessage, PublishError, ServerError
from broker.jetstream import StoredMessage
from broker.messages import Cancel, End, Turn
from broker.priorities import LANES
from broker.queued_ends import stopped
from broker.subjects import CancelAddress
from workers.health import guarded

STORED_SECONDS = 0.2
"""By when a cancel that was heard is also in its stream."""
MAX_WAITING = 1024
"""Cancels of one client. One that finds no room is not lost: it is in its stream, where a turn that is pulled looks."""
MAX_CLIENTS = 256
"""At once."""
MAX_SEEN = 20_000
"""Queued turns of which the conversation is known: a few megabytes."""

log = logging.getLogger(__name__)


class CancelledQueue(Protocol):
    """A model's queue and the cancels on the server. `ModelQueue` is one; all of it raises ServerError."""

    async def queued(self, subject: str) -> StoredMessage | None:
        """The turn that is queued under that subject, or None."""
        ...

    async def subjects_of(self, client: str) -> list[str]:
        """The subjects of all turns that a client has in the queue."""
        ...

    async def last_cancel(self, address: CancelAddress) -> StoredMessage | None:
        """The last cancel of that address that was stored, or None."""
        ...

    async def is_begun(self, client: str, turn: str) -> bool:
        """Whether a worker has written to the turn's reply."""
        ...

    async def end(self, client: str, turn: str, sequence: int, end: End) -> None:
        """Ends a queued turn, and has it leave the queue. Raises PublishError."""
        ...


class _Seen(Struct, frozen=True):
    """What is to be known of a queued turn; no conversation for one that is none."""

    sequence: int
    stored_at: float
    conversation: str | None


@dataclass
class _Wider:
    """A cancel of many, and when it was heard for the first time and the last."""

    cancel: Cancel
    first_at: float
    last_at: float


@dataclass
class _Backlog:
    """What one client wants to have stopped, in the order of its coming."""

    turns: OrderedDict[str, Cancel] = field(default_factory=OrderedDict)
    wider: OrderedDict[CancelAddress, _Wider] = field(default_factory=OrderedDict)

    def add(self, address: CancelAddress, cancel: Cancel, now: float) -> None:
        if address.turn is not None:
            self.turns[address.turn] = cancel
        elif (known := self.wider.get(address)) is not None:
            known.cancel, known.last_at = cancel, now
        else:
            self.wider[address] = _Wider(cancel, now, now)
        for waiting in (self.turns, self.wider):
            while len(waiting) > MAX_WAITING:
                waiting.popitem(last=False)

    def take_stored(self, now: float) -> dict[CancelAddress, Cancel]:
        """Those of many that are in their stream by now. What was heard again just now stays for the next time too."""
        until = now - STORED_SECONDS
        taken = {address: one.cancel for address, one in self.wider.items() if one.first_at <= until}
        for address in taken:
            if (last_at := self.wider[address].last_at) <= until:
                del self.wider[address]
            else:
                self.wider[address].first_at = last_at
        return taken


class QueuedCancels:
    """Carries out cancels in the queue of one model, by the worker of that name. `is_held` says whether a client's turn
    is in that worker's hands."""

    def __init__(self, queue: CancelledQueue, model: str, worker: str, is_held: Callable[[str, str], bool]) -> None:
        self._queue = queue
        self._model = model
        self._worker = worker
        self._is_held = is_held
        self._backlogs: dict[str, _Backlog] = {}
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def num_clients(self) -> int:
        """How many clients' cancels are being carried out."""
        return len(self._backlogs)

    async def __aenter__(self) -> None:
        await self._group.__aenter__()

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)

    def put(self, address: CancelAddress, cancel: Cancel) -> None:
        """Takes a cancel that was heard; it is carried out beside what else there is."""
        if address.turn is not None and cancel.model not in (None, self._model):
            return
        backlog = self._backlogs.get(address.client)
        if backlog is None:
            if len(self._backlogs) >= MAX_CLIENTS:
                log.warning("cancel left to whoever pulls the turn client=%s", address.client)
                return
            backlog = self._backlogs[address.client] = _Backlog()
            task = self._group.create_task(guarded("a cancel", self._work_off(address.client, backlog)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        backlog.add(address, cancel, time.monotonic())

    async def _work_off(self, client: str, backlog: _Backlog) -> None:
        try:
            while backlog.turns or backlog.wider:
                try:
                    await self._cancel_turns(client, backlog)
                    if backlog.wider:
                        await self._look_through(client, backlog)
                except (ServerError, PublishError) as error:
                    log.warning("cancel not carried out client=%s error=%s", client, error)
        finally:
            del self._backlogs[client]

    # --- One turn ---

    async def _cancel_turns(self, client: str, backlog: _Backlog) -> None:
        while backlog.turns:
            turn, cancel = backlog.turns.popitem(last=False)
            for lane in LANES:
                # Not by the sequence that the cancel names: that could be another client's turn.
                subject = subjects.turn(self._model, lane, client, turn)
                if (stored := await self._queue.queued(subject)) is not None:
                    await self._end(client, turn, stored.sequence, stored.stored_at, cancel)

    async def _end(self, client: str, turn: str, sequence: int, stored_at: float, cancel: Cancel) -> None:
        if self._is_held(client, turn) or await self._queue.is_begun(client, turn):
            return  # some worker has begun it, and hears this too
        await self._queue.end(client, turn, sequence, stopped(cancel, max(0.0, time.time() - stored_at), self._worker))

    # --- Many ---

    async def _look_through(self, client: str, backlog: _Backlog) -> None:
        """Ends those of the client's queued turns that are older than a cancel that concerns them."""
        first_at = next(iter(backlog.wider.values())).first_at
        await asyncio.sleep(max(0.0, first_at + STORED_SECONDS - time.monotonic()))
        wider = backlog.take_stored(time.monotonic())
        stamped = [(address, cancel, await self._stamp(address)) for address, cancel in wider.items()]
        for subject in await self._queue.subjects_of(client):
            await self._cancel_turns(client, backlog)
            turn = subject.rpartition(".")[2]
            if self._is_held(client, turn) or (seen := await self._look_at(subject)) is None:
                continue
            for address, cancel, at in stamped:
                if seen.stored_at <= at and (address.conversation in (None, seen.conversation)):
                    await self._end(client, turn, seen.sequence, seen.stored_at, cancel)
                    self._seen.pop(subject, None)
                    break

    async def _stamp(self, address: CancelAddress) -> float:
        """When the cancel was stored, by the server's clock: what is queued after it is not meant."""
        stored = await self._queue.last_cancel(address)
        return stored.stored_at if stored is not None else 0.0

    async def _look_at(self, subject: str) -> _Seen | None:
        """A queued turn, fetched once; None for one that was taken meanwhile: whoever has it hears the cancel too."""
        if (seen := self._seen.get(subject)) is not None:
            self._seen.move_to_end(subject)
            return seen
        stored = await self._queue.queued(subject)
        if stored is None:
            return None
        try:
            conversation = codec.decode(stored.payload, Turn, stored.headers).conversation
        except InvalidMessage:
            conversation = None  # answered as such when it is pulled
        seen = self._seen[subject] = _Seen(stored.sequence, stored.stored_at, conversation)
        while len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return seen
