"""`turnpike read`: the answer of a turn that nobody waited for, or that was queued again."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import msgspec

from broker.answer import TurnFailed
from broker.client import Client
from broker.connection import Address
from broker.errors import TurnpikeError
from broker.messages import Failed
from broker.process import EXIT_ERROR, EXIT_INTERRUPTED

POLL_SECONDS = 0.5


class NoEnd(TurnpikeError):
    """A turn that waits, runs, or never was: these cannot be told apart from here."""

    def __init__(self, turn: str, client: str) -> None:
        self.turn = turn
        super().__init__(
            f"turn {turn} of {client} has no end: it still waits or runs (--wait-seconds), is older than a day, "
            "or another account's"
        )


async def read_answer(address: Address, turn: str, stop: asyncio.Event, *, as_json: bool) -> int:
    """Prints a turn's text, or its end as JSON; one that failed is exit code 1. Raises NoEnd, TurnFailed."""
    until = asyncio.get_running_loop().time() + address.wait
    async with Client(address) as client:
        while (end := await client.read(turn)) is None:
            if asyncio.get_running_loop().time() >= until:
                raise NoEnd(turn, client.name)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_SECONDS)
                return EXIT_INTERRUPTED
    if as_json:
        sys.stdout.write(msgspec.json.encode(end).decode() + "\n")
        return EXIT_ERROR if isinstance(end, Failed) else 0
    if isinstance(end, Failed):
        raise TurnFailed(turn, end)
    sys.stdout.write(end.text + "\n")
    return 0
