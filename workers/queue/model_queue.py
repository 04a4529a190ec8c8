"""One model's queue of turns on the server, as its workers see it."""

from __future__ import annotations

import contextlib

import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import codec, connection, jetstream, subjects
from broker.delivery import Puller
from broker.jetstream import StoredMessage
from broker.messages import Beacon, End
from broker.priorities import Lane, Priority
from broker.queued_ends import end_queued
from broker.subjects import CancelAddress, TurnAddress


class ModelQueue:
    """Opens pulls, tells of the queue's front, finds and ends what is queued."""

    def __init__(self, nc: NatsConnection, model: str) -> None:
        self._nc = nc
        self._model = model
        self._stream = subjects.turns_stream(model)

    # --- Pulling ---

    def check(self) -> None:
        """Raises ConnectionLost once nothing more will come of the connection."""
        connection.check(self._nc)

    def puller(self, lane: Lane) -> Puller:
        """Pulls from a lane's consumer, not started yet."""
        return Puller(self._nc, self._stream, lane)

    async def tell_front(self, priority: Priority, sequence: int, num_pending: int) -> None:
        """Tells those who wait that the turn of that sequence was taken, and how many are behind it."""
        with contextlib.suppress(nats.errors.Error):
            await self._nc.publish(subjects.queue(self._model, priority), codec.encode(Beacon(sequence, num_pending)))

    # --- Cancels; all of it raises ServerError ---

    async def queued(self, subject: str) -> StoredMessage | None:
        """The turn that is queued under that subject, or None."""
        return await jetstream.last_stored(self._nc, self._stream, subject)

    async def subjects_of(self, client: str) -> list[str]:
        """The subjects of all turns that a client has in the queue."""
        return await jetstream.subjects_in(self._nc, self._stream, subjects.turns_of(self._model, client))

    async def last_cancel(self, address: CancelAddress) -> StoredMessage | None:
        """The last cancel of that address that was stored, or None."""
        return await jetstream.last_stored(self._nc, subjects.CANCELS, subjects.cancel(address))

    async def is_begun(self, client: str, turn: str) -> bool:
        """Whether a worker has written to the turn's reply."""
        reply = subjects.reply(client, turn)
        return await jetstream.last_stored(self._nc, subjects.REPLIES, reply) is not None

    async def end(self, client: str, turn: str, sequence: int, end: End) -> None:
        """Ends a queued turn, and has it leave the queue. Raises PublishError."""
        await end_queued(self._nc, TurnAddress(self._model, "", client, turn), sequence, end)
