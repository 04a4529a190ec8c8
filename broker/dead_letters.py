"""Turns that were given up on: list, replay, purge. An operator's right."""

from __future__ import annotations

from msgspec import Struct
from nats.aio.client import Client as NatsConnection

from broker import codec, replies, subjects, topology
from broker.errors import InvalidMessage, TurnpikeError
from broker.messages import DeadLetter, Turn, new_id

MAX_LISTED = 10_000


class NoSuchLetter(TurnpikeError):
    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        super().__init__(f"there is no dead letter {sequence}: turnpike dead list")


class Buried(Struct, frozen=True):
    """A dead letter where it lies. `sequence` is its name for the commands."""

    sequence: int
    stored_at: float
    letter: DeadLetter


async def read(nc: NatsConnection, model: str | None = None) -> list[Buried]:
    """The dead letters of a model or of all, oldest first, MAX_LISTED at most."""
    stored = await replies.read_stored(nc, subjects.DEAD, subjects.dead(model), MAX_LISTED)
    return [Buried(one.sequence, one.stored_at, _letter(one)) for one in stored]


def _letter(stored: replies.Stored) -> DeadLetter:
    """One that is not understood is listed as what it is, with its bytes: the others are to be had."""
    try:
        return codec.decode(stored.payload, DeadLetter, stored.headers)
    except InvalidMessage as error:
        return DeadLetter("", f"the letter is not understood: {error}", 0, stored.payload)


async def replay(nc: NatsConnection, buried: Buried) -> str:
    """Queues the turn again, as a new one: the old one has had its end. Returns the new turn's id.

    Raises InvalidMessage where the original bytes are no turn.
    """
    letter = buried.letter
    headers = {codec.CONTENT_TYPE: letter.content_type} if letter.content_type else {}
    turn = codec.decode(letter.payload, Turn, headers)
    address = subjects.parse_turn(letter.subject)
    new = Turn(new_id(), turn.conversation, turn.messages, turn.sampling, None, turn.kind, turn.continuations)
    subject = subjects.turn(address.model, address.priority, address.client, new.id)
    await nc.request(
        subject, codec.encode(new), timeout=5, headers={"Nats-Msg-Id": new.id, codec.CONTENT_TYPE: codec.MSGPACK}
    )
    return new.id


async def purge(nc: NatsConnection, sequence: int) -> None:
    """Forgets a letter; raises NoSuchLetter."""
    if await topology.api(nc, f"STREAM.MSG.DELETE.{subjects.DEAD}", {"seq": sequence}) is None:
        raise NoSuchLetter(sequence)
