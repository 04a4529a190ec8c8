"""`turnpike dead`: what was given up on, for the operator."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import nats.errors
from nats.aio.client import Client as NatsConnection

from broker import codec, dead_letters
from broker.connection import Address, connect
from broker.dead_letters import Buried, NoSuchLetter
from broker.errors import InvalidMessage, InvalidName, PublishError, TurnpikeError
from broker.messages import DeadLetter
from broker.process import EXIT_ERROR


class NotAllowed(TurnpikeError):
    """An account that may not read or change dead letters."""

    def __init__(self, user: str) -> None:
        self.user = user
        super().__init__(f"dead letters are the operator's, not {user}'s: --credentials operator.credentials")


@asynccontextmanager
async def _connected(address: Address) -> AsyncIterator[NatsConnection]:
    nc = await connect(address, name="turnpike-dead")
    try:
        yield nc
    except (TurnpikeError, TimeoutError, nats.errors.Error):
        # What is not allowed is not answered either, and the wait for it ends in a timeout.
        if "permission" in str(nc.last_error).lower():
            raise NotAllowed(address.user) from None
        raise
    finally:
        await nc.close()


async def list_letters(address: Address, model: str | None, *, as_json: bool) -> int:
    """Two lines a letter: which, when, whose; and why."""
    async with _connected(address) as nc:
        found = await dead_letters.read(nc, model)
    if as_json:
        sys.stdout.write(msgspec.json.encode([_shown(one) for one in found]).decode() + "\n")
        return 0
    if not found:
        sys.stderr.write("no turn was given up on\n")
    for one in found:
        when = datetime.fromtimestamp(one.stored_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        by = f"; begun by {', '.join(one.letter.workers)}" if one.letter.workers else ""
        sys.stdout.write(f"{one.sequence}  {when}  {one.letter.subject}\n    {one.letter.reason}{by}\n")
    return 0


def _shown(one: Buried) -> dict[str, object]:
    letter = one.letter
    fields: dict[str, object] = msgspec.to_builtins(letter, builtin_types=(bytes,))
    # How often it was given to a worker: also to those that handed it back without beginning.
    fields["num_deliveries"] = fields.pop("attempts")
    return {"number": one.sequence, "stored_at": one.stored_at} | fields | {"payload": _payload(letter)}


def _payload(letter: DeadLetter) -> object:
    """What was published, as far as it can be read: the turn, or what it is instead, or the bytes."""
    with contextlib.suppress(InvalidMessage, RecursionError, TypeError, ValueError):
        found = codec.fields(letter.payload, letter.content_type)
        msgspec.json.encode(found)  # for which a stranger's map may be too deep, or hold what JSON has not
        return found
    try:
        return letter.payload.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(letter.payload).decode()}


async def show_letter(address: Address, number: int) -> int:
    """All of one letter, as JSON."""
    async with _connected(address) as nc:
        one = _find(await dead_letters.read(nc), number)
        with contextlib.suppress(InvalidMessage):  # its rest has gone: what is left is shown
            one = msgspec.structs.replace(one, letter=await dead_letters.whole(nc, one.letter))
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(_shown(one)), indent=2).decode() + "\n")
    return 0


async def replay_letters(address: Address, numbers: list[int]) -> int:
    """Queues the turns again under new ids, and forgets the letters of those that the queue has taken."""
    code = 0
    async with _connected(address) as nc:
        found = await dead_letters.read(nc)
        for number in numbers:
            one = _find(found, number)
            try:
                turn = await dead_letters.replay(nc, one)
            except (PublishError, InvalidMessage, InvalidName) as error:
                sys.stderr.write(f"turnpike: {number}: not queued, its letter is kept: {error}\n")
                code = EXIT_ERROR
                continue
            await dead_letters.purge(nc, one)
            sys.stdout.write(f"{number}: queued again as turn {turn}\n")
    return code


async def purge_letters(address: Address, numbers: list[int]) -> int:
    """Forgets letters; without numbers all of them."""
    async with _connected(address) as nc:
        found = await dead_letters.read(nc)
        wanted = [_find(found, number) for number in numbers] if numbers else found
        for one in wanted:
            await dead_letters.purge(nc, one)
    await asyncio.to_thread(sys.stdout.write, f"{len(wanted)} purged\n")
    return 0


def _find(found: list[Buried], number: int) -> Buried:
    for one in found:
        if one.sequence == number:
            return one
    raise NoSuchLetter(number)
