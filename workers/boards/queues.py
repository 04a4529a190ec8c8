"""What waits in the queues, by model, as the server tells it: what boards decide by."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import jetstream, subjects
from broker.jetstream import ConsumerInfo
from broker.priorities import BATCH, INTERACTIVE, PRIORITIES, Priority
from workers.boards.view import Waiting


class Queues:
    """Asks the server: once for all queues, and of those that hold anything how far their consumers are."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._oldest: dict[tuple[str, Priority], tuple[int, int, float]] = {}
        """The oldest waiting turn that was seen last: the sequence that it was looked for behind, its own, and when it
        was stored."""

    async def listen(self, heard: Callable[[str], None]) -> Subscription:
        """Calls `heard` with the model of each turn that is queued from now on. Servers that were set up by an earlier
        release say nothing."""

        async def on_queued(message: Msg) -> None:
            heard(subjects.queued_model(message.subject))

        return await self._nc.subscribe(subjects.ALL_QUEUED, cb=on_queued)

    async def look(self, models: Collection[str], served: Collection[str]) -> dict[str, Waiting]:
        """Of those models whose queues hold turns that no worker has. `served` are those that some worker takes turns
        of: what was delivered of theirs is being answered; of the others a worker has died with it. Raises
        ServerError."""
        found = {}
        for info in await jetstream.streams(self._nc, subjects.ALL_TURNS):
            model = info.name.removeprefix(subjects.TURNS_PREFIX)
            if model in models and info.state.num_messages:
                found[model] = await self._waiting(model, info.name, is_served=model in served)
        return found

    async def _waiting(self, model: str, stream: str, *, is_served: bool) -> Waiting:
        num_turns, seconds = dict.fromkeys(PRIORITIES, 0), dict.fromkeys(PRIORITIES, 0.0)
        for priority in PRIORITIES:
            info = await jetstream.consumer(self._nc, stream, priority)
            if info is None:
                continue
            is_taken = is_served or info.num_waiting > 0  # also by a worker that is no board's
            num_turns[priority] = info.num_pending + (0 if is_taken else info.num_ack_pending)
            if num_turns[priority]:
                seconds[priority] = await self._age(model, stream, priority, _behind(info, is_taken=is_taken))
        return Waiting(num_turns[INTERACTIVE], num_turns[BATCH], seconds[INTERACTIVE], seconds[BATCH])

    async def _age(self, model: str, stream: str, priority: Priority, behind: int) -> float:
        """Of the oldest turn behind a sequence; 0 where it has gone meanwhile."""
        key = model, priority
        known = self._oldest.get(key)
        if known is None or not known[0] <= behind < known[1]:
            self._oldest.pop(key, None)
            subject = subjects.turns(model, priority)
            stored = await jetstream.read_stored(self._nc, stream, subject, limit=1, first=behind + 1)
            if not stored:
                return 0.0
            known = self._oldest[key] = behind, stored[0].sequence, stored[0].stored_at
        return max(0.0, time.time() - known[2])


def _behind(info: ConsumerInfo, *, is_taken: bool) -> int:
    """The sequence behind which the oldest waiting turn is."""
    is_left = info.num_ack_pending and not is_taken
    return info.ack_floor.stream_sequence if is_left else info.delivered.stream_sequence
