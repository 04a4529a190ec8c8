"""Cancels: what they stop in this worker's hands, and what they end in the queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import codec, replies, subjects, topology
from broker.delivery import Delivery
from broker.errors import InvalidMessage, InvalidName, ServerError
from broker.messages import Cancel, End, Turn
from broker.replies import write_end
from broker.subjects import CancelAddress, TurnAddress
from workers.loop import Event
from workers.meter import TurnNotes

MAX_RECENT = 1024
STORED_SECONDS = 0.2
"""By when a cancel that was heard is also in its stream."""

log = logging.getLogger(__name__)


@dataclass
class Work:
    """A turn in the worker's hands."""

    delivery: Delivery
    address: TurnAddress
    turn: Turn
    job: str
    """What the engine knows it by: a turn can come back here while its first delivery is still being given up."""
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    """Bounded by the turn's max_tokens."""
    cancel: Cancel | None = None
    cancelled_at: float = 0.0
    """By the monotonic clock."""
    notes: TurnNotes = field(default_factory=TurnNotes)
    on_cancel: Callable[[], object] | None = None
    """Stops what is under way for the turn before the engine hears of it."""

    def cancelled_by(self, cancel: Cancel) -> None:
        if self.cancel is None:
            self.cancel, self.cancelled_at = cancel, time.perf_counter()
            if self.on_cancel is not None:
                self.on_cancel()


class Cancels:
    """Listens for cancels as long as it is entered; first this, then the pulls, or one could fall between the two.

    `held` are the turns in the worker's hands by their jobs, `stop` ends one of them, `end_of` is the end of one that
    was not begun.
    """

    def __init__(
        self,
        nc: NatsConnection,
        model: str,
        held: Mapping[str, Work],
        stop: Callable[[str], None],
        end_of: Callable[[Cancel, float], End],
    ) -> None:
        self._nc = nc
        self._model = model
        self._held = held
        self._stop = stop
        self._end_of = end_of
        self._recent: deque[tuple[CancelAddress, Cancel, float]] = deque(maxlen=MAX_RECENT)
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> None:
        self._subscriptions.append(await self._nc.subscribe("cancel.>", cb=self._on_cancel))
        # Queued turns are looked for by one worker of the model, running ones by each in its own hands.
        queued = await self._nc.subscribe("cancel.>", queue=f"cancels-{self._model}", cb=self._on_cancel_queued)
        self._subscriptions.append(queued)

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(nats.errors.Error):
            for subscription in self._subscriptions:
                await subscription.unsubscribe()

    def _understood(self, message: Msg) -> tuple[CancelAddress, Cancel] | None:
        try:
            return subjects.parse_cancel(message.subject), codec.decode(message.data, Cancel, message.headers)
        except (InvalidName, InvalidMessage) as error:
            log.warning("cancel not understood subject=%r error=%s", message.subject[:200], error)
            return None

    async def _on_cancel(self, message: Msg) -> None:
        """Stops what is in our own hands."""
        if (understood := self._understood(message)) is None:
            return
        address, cancel = understood
        self._recent.append((address, cancel, time.perf_counter()))
        for work in list(self._held.values()):
            if _concerns(address, work.address.client, work.turn):
                log.info("⊘ cancel turn=%s", work.turn.id)
                work.cancelled_by(cancel)
                self._stop(work.job)

    async def _on_cancel_queued(self, message: Msg) -> None:
        """Ends what is still queued, without computing it, also while every worker is busy."""
        if (understood := self._understood(message)) is None:
            return
        address, cancel = understood
        try:
            if address.turn is None or cancel.sequence is None:
                await self._cancel_all_queued(address, cancel)
            elif cancel.model == self._model:
                await self._cancel_queued(address.client, address.turn, cancel.sequence, cancel)
        except ServerError as error:
            log.warning("cancel not carried out subject=%s error=%s", message.subject, error)

    async def _cancel_all_queued(self, address: CancelAddress, cancel: Cancel) -> None:
        """Looks through the client's queued turns of this model for those that the cancel concerns."""
        stream = subjects.turns_stream(self._model)
        found: dict[str, int] = {}
        while True:
            query = {"subjects_filter": subjects.turns_of(self._model, address.client), "offset": len(found)}
            info = await topology.api(self._nc, f"STREAM.INFO.{stream}", query)
            page = (info or {}).get("state", {}).get("subjects") or {}
            found |= page
            if not page or len(found) >= (info or {}).get("total", 0):
                break
        for subject in found:
            stored = await replies.last_stored(self._nc, stream, subject)
            if stored is None:
                continue  # taken meanwhile: whoever has it has heard the cancel too
            try:
                turn = codec.decode(stored.payload, Turn, stored.headers)
            except InvalidMessage:
                continue  # answered as such when it is pulled
            if _concerns(address, address.client, turn):
                await self._cancel_queued(address.client, turn.id, stored.sequence, cancel)

    async def _cancel_queued(self, client: str, turn: str, sequence: int, cancel: Cancel) -> None:
        is_held = any(work.turn.id == turn for work in self._held.values())
        if is_held or await replies.last_stored(self._nc, subjects.REPLIES, subjects.reply(client, turn)):
            return  # some worker has begun it, and hears this too
        address = TurnAddress(self._model, "", client, turn)
        if await write_end(self._nc, address, self._end_of(cancel, 0.0)):
            stream = subjects.turns_stream(self._model)
            deleted = await topology.api(self._nc, f"STREAM.MSG.DELETE.{stream}", {"seq": sequence})
            log.info("⊘ queued turn=%s deleted=%s", turn, deleted is not None)

    async def of(self, work: Work) -> Cancel | None:
        """The cancel that concerns a turn: just heard, or in the stream from before we listened."""
        if work.cancel is not None:
            return work.cancel
        client, stored_at = work.address.client, work.delivery.stored_at
        for address, cancel, heard_at in self._recent:
            if not _concerns(address, client, work.turn):
                continue
            if address.turn:
                return cancel
            if time.perf_counter() - heard_at < STORED_SECONDS:
                # Whether it was queued before the cancel the server's stamps tell, once the cancel is stored.
                await asyncio.sleep(STORED_SECONDS)
        for subject in (
            subjects.cancel_turn(client, work.turn.id),
            subjects.cancel_conversation(client, work.turn.conversation),
            subjects.cancel_all(client),
        ):
            stored = await replies.last_stored(self._nc, subjects.CANCELS, subject)
            # A conversation goes on after its cancel: only what was queued before is meant.
            if stored is not None and (stored.stored_at >= stored_at or ".turn." in subject):
                try:
                    return codec.decode(stored.payload, Cancel, stored.headers)
                except InvalidMessage as error:  # as when it was heard: one that is not understood stops nothing
                    log.warning("cancel not understood subject=%r error=%s", subject, error)
        return None


def _concerns(address: CancelAddress, client: str, turn: Turn) -> bool:
    if address.client != client:
        return False
    if address.turn is not None:
        return address.turn == turn.id
    return address.conversation is None or address.conversation == turn.conversation
