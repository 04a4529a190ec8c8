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

from msgspec import Struct
from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, subjects
from broker.errors import InvalidMessage, PublishError, ServerError
from broker.messages import Cancel, End, Turn
from broker.priorities import PRIORITIES
from broker.queued import end_queued
from broker.subjects import CancelAddress, TurnAddress
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
    """The queue of one model. `is_held` says whether a client's turn is in this worker's hands, `end_of` is the end of
    one that was not begun and waited so long."""

    def __init__(
        self,
        nc: NatsConnection,
        model: str,
        is_held: Callable[[str, str], bool],
        end_of: Callable[[Cancel, float], End],
    ) -> None:
        self._nc = nc
        self._model = model
        self._stream = subjects.turns_stream(model)
        self._is_held = is_held
        self._end_of = end_of
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
            for priority in PRIORITIES:
                # Not by the sequence that the cancel names: that could be another client's turn.
                subject = subjects.turn(self._model, priority, client, turn)
                if (stored := await jetstream.last_stored(self._nc, self._stream, subject)) is not None:
                    await self._end(client, turn, stored.sequence, stored.stored_at, cancel)

    async def _end(self, client: str, turn: str, sequence: int, stored_at: float, cancel: Cancel) -> None:
        if self._is_held(client, turn) or await jetstream.last_stored(
            self._nc, subjects.REPLIES, subjects.reply(client, turn)
        ):
            return  # some worker has begun it, and hears this too
        end = self._end_of(cancel, max(0.0, time.time() - stored_at))
        await end_queued(self._nc, TurnAddress(self._model, "", client, turn), sequence, end)

    # --- Many ---

    async def _look_through(self, client: str, backlog: _Backlog) -> None:
        """Ends those of the client's queued turns that are older than a cancel that concerns them."""
        first_at = next(iter(backlog.wider.values())).first_at
        await asyncio.sleep(max(0.0, first_at + STORED_SECONDS - time.monotonic()))
        wider = backlog.take_stored(time.monotonic())
        stamped = [(address, cancel, await self._stamp(address)) for address, cancel in wider.items()]
        for subject in await self._subjects(client):
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
        stored = await jetstream.last_stored(self._nc, subjects.CANCELS, subjects.cancel(address))
        return stored.stored_at if stored is not None else 0.0

    async def _subjects(self, client: str) -> list[str]:
        return await jetstream.subjects_in(self._nc, self._stream, subjects.turns_of(self._model, client))

    async def _look_at(self, subject: str) -> _Seen | None:
        """A queued turn, fetched once; None for one that was taken meanwhile: whoever has it hears the cancel too."""
        if (seen := self._seen.get(subject)) is not None:
            self._seen.move_to_end(subject)
            return seen
        stored = await jetstream.last_stored(self._nc, self._stream, subject)
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
