"""`turnpike dead`: what was given up on, for the operator."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
from nats.aio.client import Client as NatsConnection

from broker import dead_letters
from broker.connection import Address, connect
from broker.dead_letters import Buried, NoSuchLetter


@asynccontextmanager
async def _connected(address: Address) -> AsyncIterator[NatsConnection]:
    nc = await connect(address, name="turnpike-dead")
    try:
        yield nc
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
        sys.stdout.write(f"no dead letters{f' of model {model}' if model is not None else ''}\n")
    for one in found:
        when = datetime.fromtimestamp(one.stored_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        by = f"; begun by {', '.join(one.letter.workers)}" if one.letter.workers else ""
        sys.stdout.write(f"{one.sequence}  {when}  {one.letter.subject}\n    {one.letter.reason}{by}\n")
    return 0


def _shown(one: Buried) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(one.letter, builtin_types=(bytes,))
    # The original bytes as text where they are text: msgpack is shown as far as it reads.
    return {"number": one.sequence, "stored_at": one.stored_at} | fields | {"payload": repr(one.letter.payload)}


async def show_letter(address: Address, number: int) -> int:
    """All of one letter, as JSON."""
    async with _connected(address) as nc:
        one = _find(await dead_letters.read(nc), number)
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(_shown(one)), indent=2).decode() + "\n")
    return 0


async def replay_letters(address: Address, numbers: list[int]) -> int:
    """Queues the turns again under new ids, and forgets the letters."""
    async with _connected(address) as nc:
        found = await dead_letters.read(nc)
        for number in numbers:
            turn = await dead_letters.replay(nc, _find(found, number))
            await dead_letters.purge(nc, number)
            sys.stdout.write(f"{number}: queued again as turn {turn}\n")
    return 0


async def purge_letters(address: Address, numbers: list[int]) -> int:
    """Forgets letters; without numbers all of them."""
    async with _connected(address) as nc:
        numbers = numbers or [one.sequence for one in await dead_letters.read(nc)]
        for number in numbers:
            await dead_letters.purge(nc, number)
    await asyncio.to_thread(sys.stdout.write, f"{len(numbers)} purged\n")
    return 0


def _find(found: list[Buried], number: int) -> Buried:
    for one in found:
        if one.sequence == number:
            return one
    raise NoSuchLetter(number)
