"""The answer to one turn, as its reader follows it: it listens, asks for what it missed, and keeps the turn's deadline.

What the messages add up to is reckoned by `broker.reassembly`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Literal, Protocol

import nats.errors

from broker import codec, jetstream, replies, subjects
from broker.errors import (
    DuplicateTurn,
    InvalidMessage,
    NotStored,
    PayloadTooLarge,
    PublishError,
    QueueFull,
    ReplayUnavailable,
    ServerError,
    TurnpikeError,
    UnservedModel,
    UnsupportedVersion,
)
from broker.messages import Cancel, Chunk, Done, End, Failed, Message, Replay, Started, ToolCall, Turn
from broker.place_in_line import Line, PlaceInLine
from broker.priorities import DEFAULT_PRIORITY, Lane, Priority, lane_of
from broker.reassembly import Reassembly
from broker.subjects import CancelAddress
from broker.wire import Messages

LOOK_AFTER_SECONDS = 5.0
"""A server that republishes nothing for so long may have ended the turn while we were away: then its end is read."""
DEADLINE_GRACE_SECONDS = 2.0
"""How long behind its deadline a turn's end is waited for: a worker's or the reaper's, where there is either."""
ASK_AGAIN_SECONDS = 1.0
"""Until workers are asked again for what was missed, where none has answered."""

log = logging.getLogger(__name__)


class TurnFailed(TurnpikeError):
    """The turn ended as `failed`."""

    def __init__(self, turn: str, failed: Failed) -> None:
        self.turn = turn
        self.failed = failed
        super().__init__(f"{failed.code}: {failed.detail}")


class AnswerPort(Protocol):
    """What an answer needs of the client that asked."""

    @property
    def name(self) -> str:
        """The client's on the wire."""

    @property
    def num_reconnects(self) -> int:
        """How often the connection was made anew: what was republished meanwhile has not arrived."""

    async def publish(self, turn: Turn, model: str, priority: Priority) -> int:
        """Queues a turn and returns its stream sequence. Raises PublishError."""

    async def publish_cancel(self, address: CancelAddress, cancel: Cancel) -> None:
        """Stores a cancel. Raises PublishError."""

    async def listen(self, turn: str) -> Messages:
        """A subscription to what the server republishes of the turn's reply and end."""

    async def read(self, turn: str) -> End | None:
        """The turn's end, None while it has none. Raises ServerError."""

    async def replay(self, turn: str, index: int) -> Replay:
        """What is stored of the turn's reply from an index on. Raises ReplayUnavailable."""

    async def line(self, model: str, lane: Lane, sequence: int) -> Line | None:
        """The line in which the queued turn of this sequence waits; None while the server does not tell."""


def _is_refusal(error: BaseException) -> bool:
    """Whether it is sure that a publish that failed so has queued nothing."""
    if isinstance(error, NotStored):
        return error.code is not None
    return isinstance(error, UnservedModel | QueueFull | DuplicateTurn | PayloadTooLarge | InvalidMessage)


class Answer:
    """The answer to one turn: an async iterator of its chunks, and `await answer` for its end.

    Iterating yields each token once, in order, and raises TurnFailed when the turn ends as `failed`. What is lost on
    the way (a reconnection, a slow reader) is asked of the workers, or made up for from the end, which holds all of it.
    """

    def __init__(self, client: AnswerPort, turn: Turn, model: str, priority: Priority) -> None:
        self._client = client
        self._priority = priority
        self._subscription: Messages | None = None
        self._num_readers = 0
        """That have begun to iterate, one after the other."""
        self._line: Line | None = None
        self._begin(turn, model)

    def _begin(self, turn: Turn, model: str) -> None:
        """As before anything was sent."""
        self._model = subjects.token(model, "model")
        self._sequence: int | None = None
        self.turn = turn
        self.end: End | None = None
        self.sent_at: float | None = None
        """When the turn was published, by the monotonic clock."""
        self._was_refused = False
        self.acknowledged_at: float | None = None
        self._reassembly = Reassembly()
        self._num_reconnects = 0
        self._may_ask_at = 0.0
        self._late_at: float | None = None
        """When the deadline was seen to have passed, by the monotonic clock."""

    @property
    def model(self) -> str:
        """Whose queue the turn goes to."""
        return self._model

    @property
    def num_tokens(self) -> int:
        """Generated ones that have arrived of this attempt."""
        return self._reassembly.num_tokens

    @property
    def text(self) -> str:
        """What has arrived of this attempt."""
        return self._reassembly.text

    @property
    def reasoning(self) -> str:
        """The thoughts that have arrived of this attempt."""
        return self._reassembly.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that have arrived of this attempt; the last one's arguments may still grow."""
        return self._reassembly.calls

    @property
    def started(self) -> Started | None:
        """The worker's word that it has begun the turn, the last one where several have."""
        return self._reassembly.started

    @property
    def may_run(self) -> bool:
        """Whether it was sent and has no end that is known here: it waits or runs, unless it got lost on the way."""
        return self.sent_at is not None and self.end is None and not self._was_refused

    @property
    def done(self) -> Done:
        """The end of an answered turn; raises TurnFailed for the other kind."""
        assert self.end is not None, "the answer has not ended yet"
        if isinstance(self.end, Failed):
            raise TurnFailed(self.turn.id, self.end)
        return self.end

    def __await__(self):  # type: ignore[no-untyped-def]
        return self._result().__await__()

    async def _result(self) -> Done:
        async for _ in self:
            pass
        return self.done

    async def publish(self) -> None:
        """Sends the turn, subscribed to its answer first. Iterating does this by itself. What was sent is not sent
        again: it is listened to."""
        if self._subscription is not None or self.end is not None:
            return
        await self._subscribe()
        if self._sequence is not None:
            return
        self.sent_at = time.perf_counter()
        try:
            self._sequence = await self._client.publish(self.turn, self._model, self._priority)
        except BaseException as error:
            self._was_refused = _is_refusal(error)
            await self.close()
            raise
        self.acknowledged_at = time.perf_counter()

    async def place(self) -> PlaceInLine | None:
        """About how many turns are ahead of this one, and for how long; None once a worker has it, or while the server
        does not tell.

        The first call asks the server (0.2 ms), later ones reckon from what workers tell as they take turns.
        """
        if self.started is not None or self.end is not None or self._sequence is None:
            return None
        if self._line is None and self._subscription is not None:  # closed, it would never stop listening
            lane = lane_of(self.turn.kind, self._priority)
            self._line = await self._client.line(self._model, lane, self._sequence)
        return self._line.place() if self._line is not None else None

    async def _subscribe(self) -> None:
        self._num_reconnects = self._client.num_reconnects
        self._subscription = await self._client.listen(self.turn.id)

    async def close(self) -> None:
        """Stops listening; the turn goes on and can be read later."""
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()
        if self._line is not None:
            line, self._line = self._line, None
            await line.close()

    async def cancel(self, reason: Literal["cancelled", "deadline"] = "cancelled") -> None:
        """Stops the turn, queued or running; the answer then ends with the finish reason `cancelled`."""
        cancel = Cancel(sequence=self._sequence, model=self._model, sent_at=time.time(), reason=reason)
        await self._client.publish_cancel(CancelAddress(self._client.name, self.turn.id), cancel)

    @property
    def _has_more(self) -> bool:
        """Whether there is something to yield although the end is known."""
        return False

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        self._num_readers += 1
        this_reader = self._num_readers
        goes_on = self._sequence is not None and self._subscription is None
        await self.publish()
        try:
            if goes_on:
                for chunk in await self._catch_up():
                    yield chunk
            while self.end is None or self._has_more:
                for chunk in await self._next():
                    yield chunk
        finally:
            # Python closes what was left by a `break` some time later: somebody else may be reading by then.
            if this_reader == self._num_readers:
                await self.close()
        if isinstance(self.end, Failed):
            raise TurnFailed(self.turn.id, self.end)

    async def _catch_up(self) -> list[Chunk]:
        """What came while nobody listened: a reader has left, and another one goes on."""
        if self.end is None:
            with suppress(ServerError):  # the end may still come by itself
                self.end = await self._client.read(self.turn.id)
        return self._reassembly.rest(self.end) if self.end is not None else await self._fill()

    async def _next(self) -> list[Chunk]:
        """Waits for something to arrive and returns what it adds to the answer."""
        assert self._subscription is not None
        try:
            message = await self._subscription.next_msg(timeout=self._patience())
        except (nats.errors.TimeoutError, TimeoutError):
            if await self._is_just_late():
                return []
            found = await self._look_after()
            self._keep_deadline()
            return found
        if (message.headers or {}).get(jetstream.STREAM) == subjects.ENDS:
            self.end = replies.understood_end(message.data, message.headers)
            return self._reassembly.rest(self.end)
        try:
            arrived = codec.decode_reply(message.data, message.headers)
        except UnsupportedVersion as error:
            return await self._give_up(error)
        except InvalidMessage as error:
            # What one message would have said, the end says too.
            log.warning("message not understood turn=%s error=%s", self.turn.id, error)
            return []
        if isinstance(arrived, Done | Failed):
            self.end = arrived
            return self._reassembly.rest(self.end)
        if isinstance(arrived, Started):
            self._reassembly.skip_to(arrived)
        if arrived.index > self._reassembly.next_index:
            return await self._fill()  # it is among what is missing
        return self._reassembly.take(arrived)

    async def _give_up(self, error: InvalidMessage) -> list[Chunk]:
        """A worker of a later release answers in a way that is not read here: the turn is stopped, and says so."""
        await self._stop_unread()
        self.end = replies.not_understood(error)
        return []

    async def _stop_unread(self) -> None:
        with suppress(PublishError):
            await self.cancel()

    def _patience(self) -> float:
        if self.turn.deadline is None:
            return LOOK_AFTER_SECONDS
        if self._late_at is None:
            left = self.turn.deadline - time.time()
        else:
            left = self._late_at + DEADLINE_GRACE_SECONDS - time.perf_counter()
        return min(LOOK_AFTER_SECONDS, max(0.0, left) + 0.001)

    async def _is_just_late(self) -> bool:
        """True once, when the deadline has passed: whoever has the turn is told."""
        if self.turn.deadline is None or self._late_at is not None or time.time() < self.turn.deadline:
            return False
        self._late_at = time.perf_counter()
        # Where it cannot be told, a worker notices by itself.
        with suppress(PublishError, TimeoutError):
            async with asyncio.timeout(DEADLINE_GRACE_SECONDS):
                await self.cancel(reason="deadline")
        return True

    def _keep_deadline(self) -> None:
        """Ends the answer for its reader where nobody else has ended the late turn: no worker, no reaper, no server."""
        if self.end is not None or self._late_at is None:
            return
        if time.perf_counter() - self._late_at >= DEADLINE_GRACE_SECONDS:
            self.end = Failed("deadline", "the deadline passed, and nobody has ended the turn: no worker answers")

    async def _look_after(self) -> list[Chunk]:
        """Nothing came for a while: the end may have been lost, and when the connection was cut, anything."""
        with suppress(ServerError):  # cut off just now: the next look finds it
            self.end = await self._client.read(self.turn.id)
        if self.end is not None:
            return self._reassembly.rest(self.end)
        num_reconnects = self._client.num_reconnects
        if num_reconnects == self._num_reconnects:
            return []
        self._num_reconnects = num_reconnects
        return await self._fill()

    async def _fill(self) -> list[Chunk]:
        """Asks the workers for what is stored and was missed; what nobody can tell is made up for from the end."""
        now = time.perf_counter()
        if now < self._may_ask_at:
            return []
        found: list[Chunk] = []
        is_whole = False
        while not is_whole:
            try:
                replay = await self._client.replay(self.turn.id, self._reassembly.next_index)
            except ReplayUnavailable:
                self._may_ask_at = time.perf_counter() + ASK_AGAIN_SECONDS
                break
            index = self._reassembly.next_index
            for payload in replay.messages:
                with suppress(InvalidMessage):
                    reply = codec.decode_reply(payload)
                    found += self._reassembly.take(reply) if not isinstance(reply, Done | Failed) else []
            # Where nothing of it was of use, asking again gives the same: the end makes up for it.
            is_whole = replay.is_whole or self._reassembly.next_index == index
        return found


class Followed(Answer):
    """The answer to a turn that is queued already."""

    def __init__(self, client: AnswerPort, turn: str) -> None:
        known = Turn(subjects.token(turn, "turn"), turn, (Message("user", ""),))
        super().__init__(client, known, "unknown", DEFAULT_PRIORITY)
        self._early: list[Chunk] = []

    async def publish(self) -> None:
        """Only listens, and reads what there is."""
        if self._subscription is not None:
            return
        await self._subscribe()
        self.end = await self._client.read(self.turn.id)
        self._early = self._reassembly.rest(self.end) if self.end is not None else await self._fill()

    async def _stop_unread(self) -> None:
        """It is somebody else's, who may well be able to read it."""

    @property
    def _has_more(self) -> bool:
        return bool(self._early)

    async def _next(self) -> list[Chunk]:
        if self._early:
            early, self._early = self._early, []
            return early
        return await super()._next()
