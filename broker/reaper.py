"""Ends queued turns of models that nobody serves: those whose deadline has passed, those that a cancel concerns, and
those of a model that boards have and cannot load.

A worker does that for its own model, and better: it knows what it has in hand. This is for queues without one. It reads
what is queued once, a bounded piece at a time, and forgets it as soon as a worker answers. Any number of reapers may
run: the first end of a turn is the one that counts, and the server decides whose that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg

from broker import availability, codec, jetstream, model_status, placing, subjects, topology
from broker.connection import Address, check
from broker.discovery import SERVING
from broker.errors import ConnectionLost, InvalidMessage, InvalidName, NotReady, ServerError
from broker.jetstream import StoredMessage
from broker.keeping import connected, kept
from broker.messages import Cancel, End, Turn
from broker.model_status import ModelStatus
from broker.queued_ends import end_queued, is_not_loaded, not_loaded, past_deadline, stopped
from broker.subjects import CancelAddress, TurnAddress

NAME = "reaper"
"""In the place of the worker's in the ends that it writes."""
LOOK_SECONDS = 1.0
REST_SECONDS = 0.1
"""Between two looks, also while cancels come in a storm."""
SERVED_SECONDS = 3.0
"""How long a model that had a worker at the last look is taken to have one."""
PIECE = 32
"""Messages of one read: a turn may have a megabyte."""
MAX_READ = 512
"""Messages read of a stream in one look, and turns of a queue ended."""
MAX_KNOWN = 100_000
"""Turns of a queue that are kept in mind; those behind them are read when these are gone."""
CANCEL_SECONDS = 3600.0
"""How long the server keeps a cancel, and we do."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Queued:
    """What a queued turn is ended by."""

    address: TurnAddress
    conversation: str
    deadline: float | None
    stored_at: float


_Cancels = Mapping[CancelAddress, tuple[Cancel, float]]
"""What each says, and when the server stored it."""


@dataclass
class _Queue:
    """What is known of an unserved model's queue."""

    ack_wait: float
    left_since: float = field(default_factory=time.monotonic)
    """Since when no worker answers, by the monotonic clock."""
    next_sequence: int = 1
    turns: dict[int, _Queued] = field(default_factory=dict)
    """By their sequence."""
    deadlines: list[tuple[float, int]] = field(default_factory=list)
    """A heap."""
    due: dict[int, End] = field(default_factory=dict)
    """The ends to write."""
    begun: set[int] = field(default_factory=set)
    """Of those that are due, the ones that a worker has begun."""

    def add(self, sequence: int, turn: _Queued, cancels: _Cancels) -> None:
        self.turns[sequence] = turn
        if (end := _cancelled(turn, cancels)) is not None:
            self.due[sequence] = end
        elif turn.deadline is not None:
            heapq.heappush(self.deadlines, (turn.deadline, sequence))

    def cancel(self, cancels: _Cancels) -> None:
        """Has the turns that these concern ended."""
        for sequence, turn in self.turns.items():
            if sequence not in self.due and (end := _cancelled(turn, cancels)) is not None:
                self.due[sequence] = end

    def pass_deadlines(self, now: float) -> None:
        """Has those ended that are late by the wall clock."""
        while self.deadlines and self.deadlines[0][0] <= now:
            _, sequence = heapq.heappop(self.deadlines)
            if sequence in self.turns:
                self.due.setdefault(sequence, past_deadline(NAME))

    def heed(self, status: ModelStatus | None) -> None:
        """Has all turns ended where boards have the model and none can load it; none for that where one may by now."""
        if status is None or status.is_servable:
            self.due = {one: end for one, end in self.due.items() if not is_not_loaded(end)}
            return
        end = not_loaded(status, NAME)
        for sequence in self.turns:
            self.due.setdefault(sequence, end)

    def endable(self) -> list[int]:
        """The turns to end now. Those that a worker has begun wait until they would be anybody's: it may only be cut
        off, and has as long as the server gives it."""
        is_left = time.monotonic() - self.left_since >= self.ack_wait
        return [sequence for sequence in self.due if is_left or sequence not in self.begun]

    def forget(self, sequence: int) -> None:
        for known in (self.turns, self.due):
            known.pop(sequence, None)
        self.begun.discard(sequence)


class Reaper:
    """Looks after the queues without a worker, on a connection of the role `reaper` or an operator's."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._queues: dict[str, _Queue] = {}
        """By model."""
        self._served_at: dict[str, float] = {}
        self._cancels: dict[CancelAddress, tuple[Cancel, float]] = {}
        self._next_cancel = 1
        self._woken = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Looks every second, and soon when a cancel is heard, until `stop`. Raises ServerError when the connection is
        closed for good."""
        heard = await self._nc.subscribe(subjects.ALL_CANCELS, cb=self._on_cancel)
        try:
            while not stop.is_set():
                check(self._nc)
                has_more = False
                try:
                    has_more = await self.look()
                except (ServerError, nats.errors.Error) as error:
                    if self._nc.is_closed:
                        raise ServerError(f"the reaper's connection is closed: {error}") from None
                    log.warning("queues not looked at error=%s", error)
                if not has_more:
                    await self._pause(stop)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await heard.unsubscribe()

    async def _on_cancel(self, message: Msg) -> None:
        self._woken.set()

    async def _pause(self, stop: asyncio.Event) -> None:
        """Until the next look is due, a cancel is heard, or `stop`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST_SECONDS):
                await stop.wait()
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._woken, stop)]
        try:
            await asyncio.wait(waiting, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
        self._woken.clear()

    async def look(self) -> bool:
        """Ends what is to be ended, up to a bound; True where there is more to do at once. Raises ServerError."""
        models = await self._filled()
        are_unserved = await asyncio.gather(*map(self._is_unserved, models))
        unserved = [model for model, is_unserved in zip(models, are_unserved, strict=True) if is_unserved]
        self._queues = {model: queue for model, queue in self._queues.items() if model in unserved}
        if not unserved:
            return False
        has_more = await self._read_cancels()
        statuses = model_status.statuses(await placing.boards(self._nc))
        for model in unserved:
            queue = self._queues[model]
            try:
                has_more |= await self._read_turns(model, queue)
                queue.pass_deadlines(time.time())
                queue.heed(statuses.get(model))
                has_more |= await self._end(queue)
            except ConnectionLost:
                raise
            except ServerError as error:  # a stream that is set up otherwise, say: no other queue waits for it
                log.warning("queue not looked at model=%s error=%s", model, error)
        return has_more

    async def _filled(self) -> list[str]:
        """The models that have anything queued."""
        filled = [
            one.name
            for one in await jetstream.streams(self._nc, subjects.ALL_TURNS)
            if one.name.startswith(subjects.TURNS_PREFIX) and one.state.num_messages
        ]
        return [name.removeprefix(subjects.TURNS_PREFIX) for name in filled]

    async def _is_unserved(self, model: str) -> bool:
        served_at = self._served_at.get(model)
        if served_at is not None and time.monotonic() - served_at < SERVED_SECONDS:
            return False
        state = await availability.state(self._nc, model)
        if state == SERVING:
            self._served_at[model] = time.monotonic()
            return False
        if model not in self._queues:
            try:
                self._queues[model] = _Queue(await topology.require(self._nc, model))
            except NotReady:  # it has no consumers yet
                return False
        if state is not None:  # one drains: it takes no turns, and ends those that it has
            self._queues[model].left_since = time.monotonic()
        return True

    # --- What is there ---

    async def _read_cancels(self) -> bool:
        """Takes up the cancels that are new; True where there are more."""
        horizon = time.time() - CANCEL_SECONDS
        self._cancels = {address: one for address, one in self._cancels.items() if one[1] >= horizon}
        found = await jetstream.read_stored(
            self._nc, subjects.CANCELS, subjects.ALL_CANCELS, MAX_READ, self._next_cancel
        )
        if not found and await self._is_another_store():
            self._next_cancel = 1
            return True
        new: dict[CancelAddress, tuple[Cancel, float]] = {}
        for stored in found:
            self._next_cancel = stored.sequence + 1
            with contextlib.suppress(InvalidMessage, InvalidName):
                cancel = codec.decode(stored.payload, Cancel, stored.headers)
                new[subjects.parse_cancel(stored.subject)] = cancel, stored.stored_at
        self._cancels |= new
        if new:
            for queue in self._queues.values():
                queue.cancel(new)
        return len(found) == MAX_READ

    async def _is_another_store(self) -> bool:
        """Whether the cancels that were read are none of this server's: it came back with an empty store."""
        info = await jetstream.stream(self._nc, subjects.CANCELS)
        return info is not None and info.state.last_sequence < self._next_cancel - 1

    async def _read_turns(self, model: str, queue: _Queue) -> bool:
        """Takes up the turns that are new in a queue; True where there are more."""
        num_read = 0
        while num_read < MAX_READ and len(queue.turns) < MAX_KNOWN:
            piece = await jetstream.read_stored(
                self._nc, subjects.turns_stream(model), subjects.turns(model), PIECE, queue.next_sequence
            )
            for stored in piece:
                queue.next_sequence = stored.sequence + 1
                if (turn := _queued(stored)) is not None:
                    queue.add(stored.sequence, turn, self._cancels)
            num_read += len(piece)
            if len(piece) < PIECE:
                return False
        return num_read >= MAX_READ

    # --- What is ended ---

    async def _end(self, queue: _Queue) -> bool:
        """Ends the turns whose time has come; True where there are more than one look takes."""
        endable = queue.endable()
        for sequence in endable[:MAX_READ]:
            turn = queue.turns[sequence]
            if not await self._is_queued(turn, sequence):
                queue.forget(sequence)
            elif sequence not in queue.begun and await self._is_begun(turn):
                queue.begun.add(sequence)
            else:
                end = queue.due[sequence]
                queue.forget(sequence)
                await end_queued(self._nc, turn.address, sequence, end)
        return len(endable) > MAX_READ

    async def _is_queued(self, turn: _Queued, sequence: int) -> bool:
        address = turn.address
        subject = subjects.turn(address.model, address.priority, address.client, address.turn)
        stored = await jetstream.last_stored(self._nc, subjects.turns_stream(address.model), subject)
        return stored is not None and stored.sequence == sequence

    async def _is_begun(self, turn: _Queued) -> bool:
        reply = subjects.reply(turn.address.client, turn.address.turn)
        return await jetstream.last_stored(self._nc, subjects.REPLIES, reply) is not None


def _cancelled(turn: _Queued, cancels: _Cancels) -> End | None:
    """The end of a turn that one of them concerns."""
    client = turn.address.client
    for address in (
        CancelAddress(client, turn=turn.address.turn),
        CancelAddress(client, conversation=turn.conversation),
        CancelAddress(client),
    ):
        if (found := cancels.get(address)) is not None:
            cancel, stored_at = found
            # A conversation goes on after its cancel: only what was queued before is meant.
            if address.turn is not None or stored_at >= turn.stored_at:
                return stopped(cancel, max(0.0, time.time() - turn.stored_at), NAME)
    return None


def _queued(stored: StoredMessage) -> _Queued | None:
    """None for what is no turn: the worker that pulls it says so."""
    try:
        address = subjects.parse_turn(stored.subject)
        turn = codec.decode(stored.payload, Turn, stored.headers)
    except (InvalidName, InvalidMessage):
        return None
    if turn.id != address.turn:
        return None
    return _Queued(address, turn.conversation, turn.deadline, stored.stored_at)


async def reap(address: Address, stop: asyncio.Event) -> None:
    """A reaper on a connection of its own, until `stop`. Raises ServerError."""
    await connected(address, NAME, lambda nc: Reaper(nc).run(stop))


async def keep_reaping(address: Address, stop: asyncio.Event) -> None:
    """As `reap`, and begun anew where that ends before `stop`: beside a server whose clients live on without it."""
    await kept(address, NAME, lambda nc: Reaper(nc).run(stop), stop)
