"""Turns that were given up on: write, list, replay, purge. All but the writing is an operator's right."""

from __future__ import annotations

import contextlib

from msgspec import Struct
from msgspec.structs import replace
from nats.aio.client import Client as NatsConnection

from broker import codec, jetstream, publishing, subjects
from broker.errors import InvalidMessage, ServerError, TurnpikeError
from broker.messages import DeadLetter, Turn, new_id
from broker.replies import MAX_DETAIL

MAX_LISTED = 10_000


class NoSuchLetter(TurnpikeError):
    """None lies there, or not any more."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        super().__init__(f"there is no dead letter {sequence}: turnpike dead list")


class Buried(Struct, frozen=True):
    """A dead letter where it lies. `sequence` is its name for the commands."""

    sequence: int
    stored_at: float
    letter: DeadLetter


async def bury(nc: NatsConnection, letter: DeadLetter, model: str, sequence: int) -> None:
    """Stores a letter, also of a turn as large as may be: comes back when it is stored, raises PublishError.

    `sequence` is the turn's in its queue: a letter that is written again within two minutes is stored once.
    """
    if len(letter.reason) > MAX_DETAIL:
        letter = replace(letter, reason=f"{letter.reason[:MAX_DETAIL]}…")
    name = f"{letter.subject}@{sequence}"
    payload = codec.encode(letter)
    if not publishing.fits(nc, payload, {jetstream.MESSAGE_ID: name}):
        # The rest first: a letter never names what is not there.
        size = publishing.limit(nc) // 2
        rest = await publishing.publish(
            nc, subjects.dead_rest(model), letter.payload[size:], message_id=f"{name}/rest", is_id_ours=True
        )
        payload = codec.encode(replace(letter, payload=letter.payload[:size], rest=rest.sequence))
    await publishing.publish(nc, subjects.dead(model), payload, message_id=name, is_id_ours=True)


async def read(nc: NatsConnection, model: str | None = None) -> list[Buried]:
    """The dead letters of a model or of all, oldest first, MAX_LISTED at most."""
    stored = await jetstream.read_stored(nc, subjects.DEAD, subjects.dead(model), MAX_LISTED)
    return [Buried(one.sequence, one.stored_at, _letter(one)) for one in stored]


def _letter(stored: jetstream.StoredMessage) -> DeadLetter:
    """What is none is shown as one: it can be looked at, and purged."""
    try:
        return codec.decode(stored.payload, DeadLetter, stored.headers)
    except InvalidMessage as error:
        subject = stored.headers.get(jetstream.SUBJECT, "")
        return DeadLetter(subject, f"this letter is not understood: {error}", 0, stored.payload)


async def whole(nc: NatsConnection, letter: DeadLetter) -> DeadLetter:
    """The letter with all of its payload; raises InvalidMessage where the rest of that has gone."""
    if not letter.rest:
        return letter
    rest = await jetstream.stored_at(nc, subjects.DEAD, letter.rest)
    if rest is None:
        raise InvalidMessage("payload", f"its rest, message {letter.rest} of {subjects.DEAD}, is not there any more")
    return replace(letter, payload=letter.payload + rest.payload, rest=0)


async def replay(nc: NatsConnection, buried: Buried) -> str:
    """Queues the turn again, as a new one without its deadline: the old one has had its end. Returns the new turn's id
    once it is stored.

    Raises InvalidMessage where the original bytes are no turn, PublishError where the queue does not take it.
    """
    letter = await whole(nc, buried.letter)
    headers = {codec.CONTENT_TYPE: letter.content_type} if letter.content_type else {}
    turn = codec.decode(letter.payload, Turn, headers)
    address = subjects.parse_turn(letter.subject)
    new = replace(turn, id=new_id(), deadline=None)
    subject = subjects.turn(address.model, address.priority, address.client, new.id)
    await publishing.publish(nc, subject, codec.encode(new), message_id=new.id)
    return new.id


async def purge(nc: NatsConnection, buried: Buried) -> None:
    """Forgets a letter; raises NoSuchLetter."""
    if not await jetstream.delete(nc, subjects.DEAD, buried.sequence):
        raise NoSuchLetter(buried.sequence)
    if buried.letter.rest:
        with contextlib.suppress(ServerError):  # it may have gone before its letter
            await jetstream.delete(nc, subjects.DEAD, buried.letter.rest)
