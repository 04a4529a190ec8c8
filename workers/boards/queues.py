"""What waits in the queues, by model, as the server tells it: what boards decide by."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import jetstream, subjects
from broker.jetstream import ConsumerInfo, StreamInfo
from broker.priorities import ASIDE, BATCH, INTERACTIVE, LANES, Lane
from workers.boards.view import Waiting

LOOK_SECONDS = 0.5
QUIET_SECONDS = 1.5
"""How often to look where nothing waits; and where the server tells of turns that come."""
AGAIN_SECONDS = 5.0
"""After which the oldest turn of a queue is looked for again."""


@dataclass(frozen=True)
class _Oldest:
    """A turn that waits."""

    behind: int
    """The sequence that it was looked for behind."""
    sequence: int
    stored_at: float
    read_at: float
    """By the monotonic clock."""

    def holds(self, behind: int, first: int, now: float) -> bool:
        """Whether it is still the oldest one behind a sequence, in a stream that begins at `first`. One that was
        cancelled has gone without having been taken: it is looked for again now and then."""
        return self.behind <= behind < self.sequence and first <= self.sequence and now - self.read_at < AGAIN_SECONDS


class Queues:
    """Asks the server: once for all queues, and of those that hold anything how far their consumers are."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self.look_seconds = LOOK_SECONDS
        """Until it should be looked again where nothing waits."""
        self._oldest: dict[tuple[str, Lane], _Oldest] = {}
        """The oldest waiting turn that was seen last."""

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
        infos = await jetstream.streams(self._nc, subjects.ALL_TURNS)
        is_told = all(info.config.get("republish") for info in infos)  # an earlier release's are not
        self.look_seconds = QUIET_SECONDS if is_told else LOOK_SECONDS
        for info in infos:
            model = info.name.removeprefix(subjects.TURNS_PREFIX)
            if model in models and info.state.num_messages:
                found[model] = await self._waiting(model, info, is_served=model in served)
        return found

    async def _waiting(self, model: str, queue: StreamInfo, *, is_served: bool) -> Waiting:
        num_turns, seconds = dict.fromkeys(LANES, 0), dict.fromkeys(LANES, 0.0)
        found = {lane: await jetstream.consumer(self._nc, queue.name, lane) for lane in LANES}
        infos = {lane: info for lane, info in found.items() if info is not None}
        # Where turns were deleted before anybody took them, later ones may be missing in num_pending (nats-server 2.15)
        missing = queue.state.num_messages - sum(one.num_pending + one.num_ack_pending for one in infos.values())
        for lane, info in infos.items():
            is_taken = is_served or info.num_waiting > 0  # also by a worker that is no board's
            num_turns[lane] = info.num_pending + (0 if is_taken else info.num_ack_pending)
            if not num_turns[lane] and missing <= 0:
                continue
            age = await self._age(model, queue, lane, info, is_taken=is_taken)
            if not num_turns[lane] and age is not None:
                num_turns[lane], missing = missing, 0
            seconds[lane] = age or 0.0
        # What takes no slot waits for the model, where it is not loaded, as somebody does.
        num_urgent, urgent_seconds = (
            num_turns[INTERACTIVE] + num_turns[ASIDE],
            max(seconds[INTERACTIVE], seconds[ASIDE]),
        )
        return Waiting(num_urgent, num_turns[BATCH], urgent_seconds, seconds[BATCH])

    async def _age(
        self, model: str, queue: StreamInfo, lane: Lane, info: ConsumerInfo, *, is_taken: bool
    ) -> float | None:
        """Of the oldest turn that waits, by the server's clock alone; None where there is none, or it has gone."""
        key, behind, now = (model, lane), _behind(info, is_taken=is_taken), time.monotonic()
        known = self._oldest.get(key)
        if known is None or not known.holds(behind, queue.state.first_sequence, now):
            self._oldest.pop(key, None)
            subject = subjects.turns(model, lane)
            stored = await jetstream.read_stored(self._nc, queue.name, subject, limit=1, first=behind + 1)
            if not stored:
                return None
            known = self._oldest[key] = _Oldest(behind, stored[0].sequence, stored[0].stored_at, now)
        return max(0.0, (time.time() if info.told_at is None else info.told_at) - known.stored_at)


def _behind(info: ConsumerInfo, *, is_taken: bool) -> int:
    """The sequence behind which the oldest waiting turn is."""
    is_left = info.num_ack_pending and not is_taken
    return info.ack_floor.stream_sequence if is_left else info.delivered.stream_sequence
