"""Turns' replies, ends and dead letters on the server."""

from __future__ import annotations

from nats.aio.client import Client as NatsConnection

from broker import dead_letters, replies
from broker.messages import DeadLetter, End
from broker.replies import ReplyWriter, StoredReply
from broker.subjects import TurnAddress


class NatsTurnStore:
    """Implements TurnStore on one connection, as the worker of that name, whose model has so many tokens."""

    def __init__(self, nc: NatsConnection, worker: str, num_tokens: int) -> None:
        self._nc = nc
        self._num_tokens = num_tokens
        self._worker = worker

    async def read_end(self, client: str, turn: str) -> End | None:
        """The end of a turn, or None while it has none."""
        return await replies.read_end(self._nc, client, turn)

    async def write_end(self, address: TurnAddress, end: End) -> bool:
        """Writes a turn's end; False where it had one. Tries until the server has answered."""
        return await replies.write_end(self._nc, address, end)

    async def bury(self, letter: DeadLetter, model: str, sequence: int) -> None:
        """Stores a dead letter of the turn with that sequence in its queue."""
        await dead_letters.bury(self._nc, letter, model, sequence)

    async def read_replies(self, client: str, turn: str) -> list[StoredReply]:
        """All that is stored of a turn's reply, in order."""
        return await replies.read_replies(self._nc, client, turn)

    def writer(self, address: TurnAddress) -> ReplyWriter:
        """Who writes the turn's reply, not started yet."""
        return ReplyWriter(self._nc, address, self._worker, self._num_tokens)
