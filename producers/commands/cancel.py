"""`turnpike cancel`: stops turns, and says which have ended by it."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import nats.errors
from nats.aio.msg import Msg

from broker import availability, codec, jetstream, subjects
from broker.client import Client
from broker.connection import Address
from broker.errors import InvalidMessage, ServerError
from broker.messages import Done, End, Failed, Reply
from broker.priorities import LANES
from producers.terminal.printing import counted

FIRST_SECONDS = 4.0
"""How long the first end is waited for: a worker's step, or where there is none the reaper's look."""
QUIET_SECONDS = 0.7
"""Without another end it was the last one."""
MAX_SHOWN = 20


async def cancel(address: Address, *, turn: str | None, conversation: str | None) -> int:
    """A line for each turn that ended by it, up to twenty, and their number; or why there was none."""
    async with Client(address) as client:
        if turn is not None and (before := await client.read(turn)) is not None:
            sys.stdout.write(f"turn {turn} had ended before: {_became(before)}\n")
            return 0
        is_empty = await _is_all_empty(client)
        ended = _Ended(turn)
        subscription = await client.nc.subscribe(subjects.live_of(client.name), cb=ended.on_message)
        await client.nc.flush()
        await client.cancel(turn=turn, conversation=conversation)
        if not is_empty:
            await ended.until_quiet()
        await subscription.unsubscribe()
    ends = ended.ends
    for name, end in list(ends.items())[:MAX_SHOWN]:
        sys.stdout.write(f"turn {name}: {_became(end)}\n")
    num_queued = sum(not _was_begun(end) for end in ends.values())
    if ends:
        running = f"{len(ends) - num_queued} that ran"
        sys.stdout.write(f"{counted(len(ends), 'turn')} ended: {num_queued} in the queue, {running}\n")
    elif is_empty:
        sys.stdout.write("nothing to cancel: no turn is queued or running\n")
    else:
        sys.stdout.write(
            f"no turn ended within {FIRST_SECONDS:g} s: none that is meant is queued or running, or its worker is "
            "in a long step, and stops it then\n"
        )
    return 0


def _was_begun(end: End) -> bool:
    return isinstance(end, Done) and end.usage.prompt_tokens > 0


def _became(end: End) -> str:
    match end:
        case Done(finish_reason=reason, tokens=tokens) if _was_begun(end):
            return f"{reason} after {counted(len(tokens), 'token')}"
        case Done(finish_reason=reason):
            return f"{reason} in the queue"
        case Failed(code=code, detail=detail):
            return f"{code}: {detail}"


class _Ended:
    """The ends that come, by their turns: those that a cancel makes, and of a turn that was named any."""

    def __init__(self, turn: str | None) -> None:
        self._turn = turn
        self.ends: dict[str, End] = {}
        self._came = asyncio.Event()

    async def on_message(self, message: Msg) -> None:
        with contextlib.suppress(InvalidMessage):
            arrived = codec.decode(message.data, Reply | End, message.headers)
            turn = message.subject.rpartition(".")[2]
            is_cancelled = isinstance(arrived, Done) and arrived.finish_reason == "cancelled"
            is_meant = turn == self._turn or (is_cancelled and self._turn is None)
            if is_meant and isinstance(arrived, Done | Failed):
                self.ends[turn] = arrived
                self._came.set()

    async def until_quiet(self) -> None:
        patience = FIRST_SECONDS
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(patience):
                    await self._came.wait()
                self._came.clear()
                patience = QUIET_SECONDS


async def _is_all_empty(client: Client) -> bool:
    """Whether nobody has anything queued or running."""
    try:
        for model in await availability.queues(client.nc):
            for lane in LANES:
                info = await jetstream.consumer(client.nc, subjects.turns_stream(model), lane)
                if info is not None and (info.num_pending or info.num_ack_pending):
                    return False
    except (ServerError, nats.errors.Error):
        return False
    return True
