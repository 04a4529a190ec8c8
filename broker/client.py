"""The producer's side of the wire: publish a turn, follow its answer as it streams, cancel it, read it later.

::

    async with Client(Address.parse("nats://me:secret@pi:4222")) as client:
        async for chunk in client.ask("tiny", "How do I restart the node?"):
            print(chunk.text, end="")
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import codec, discovery, jetstream, publishing, replies, serving, subjects
from broker.connection import Address, close, connect
from broker.errors import (
    Duplicate,
    DuplicateTurn,
    InvalidMessage,
    NoStream,
    NotStored,
    PayloadTooLarge,
    PublishError,
    QueueFull,
    ReplayUnavailable,
    ServerError,
    TurnFailed,
    UnservedModel,
    UnsupportedVersion,
)
from broker.messages import (
    Beacon,
    Cancel,
    Chunk,
    Done,
    End,
    Failed,
    Kind,
    Message,
    Other,
    Replay,
    ReplayRequest,
    Reply,
    RunEvent,
    Sampling,
    Started,
    Turn,
    new_id,
)
from broker.priorities import DEFAULT_PRIORITY, Priority

# A server that republishes nothing for so long may have ended the turn while we were away: then its end is read.
LOOK_AFTER_SECONDS = 5.0
DEADLINE_GRACE_SECONDS = 2.0
"""How long behind its deadline a turn's end is waited for: a worker's or the reaper's, where there is either."""
REPLAY_SECONDS = 2.0
ASK_AGAIN_SECONDS = 1.0

log = logging.getLogger(__name__)


class Client:
    """A connection of one producer; an async context manager. Its name on the wire is the address's user."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._nc: NatsConnection | None = None

    @classmethod
    def on(cls, nc: NatsConnection, name: str) -> Self:
        """A client of that name on somebody's connection, who may act for it and closes it."""
        client = cls(Address("", subjects.token(name, "client")))
        client._nc = nc
        return client

    @property
    def name(self) -> str:
        return self._address.user

    @property
    def nc(self) -> NatsConnection:
        assert self._nc is not None, "use the client as an async context manager"
        return self._nc

    async def __aenter__(self) -> Self:
        self._nc = await connect(self._address, name=f"turnpike-client-{self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await close(self.nc)

    def ask(
        self,
        model: str,
        messages: str | Sequence[Message],
        *,
        sampling: Sampling = Sampling(),
        conversation: str | None = None,
        priority: Priority = DEFAULT_PRIORITY,
        deadline: float | None = None,
        kind: Kind = "generate",
        continuations: Sequence[str] = (),
        run: str | None = None,
        raw: bool = False,
    ) -> Answer:
        """One turn. Nothing is sent before the answer is iterated or awaited.

        `messages` is the whole history and ends with the user's message; a text stands for just that. `deadline` is in
        seconds since the epoch. Raises InvalidMessage and InvalidName here, PublishError and TurnFailed on the way.
        """
        if isinstance(messages, str):
            messages = (Message("user", messages),)
        turn = Turn(
            id=new_id(),
            conversation=subjects.token(conversation or new_id(), "conversation"),
            messages=tuple(messages),
            sampling=sampling,
            deadline=deadline,
            kind=kind,
            continuations=tuple(continuations),
            run=None if run is None else subjects.token(run, "run"),
            raw=raw,
        )
        return Answer(self, turn, model, priority)

    async def read(self, turn: str) -> End | None:
        """The end of a turn of this client's, also hours later; None while it has none."""
        return await replies.read_end(self.nc, self.name, turn)

    async def cancel(self, *, turn: str | None = None, conversation: str | None = None) -> None:
        """Stops a turn, a conversation's turns, or with neither all of this client's, queued or running."""
        if turn is not None:
            subject = subjects.cancel_turn(self.name, turn)
        elif conversation is not None:
            subject = subjects.cancel_conversation(self.name, conversation)
        else:
            subject = subjects.cancel_all(self.name)
        await self._publish_cancel(subject, Cancel(sent_at=time.time()))

    async def _publish_cancel(self, subject: str, cancel: Cancel) -> None:
        # With an id of its own: what was not acknowledged is tried again, and stored once.
        await publishing.publish(self.nc, subject, codec.encode(cancel), message_id=new_id())

    def follow(self, turn: str) -> Answer:
        """The answer to a turn that was published before, by this client or by another process of its name.

        Iterating it yields all of the answer from the start, then goes on as it comes, without a gap or a repeat.
        """
        return _Followed(self, turn)

    async def _replay(self, turn: str, index: int) -> Replay:
        """What is stored of a turn's reply from an index on; raises ReplayUnavailable when no worker answers."""
        try:
            reply = await self.nc.request(
                subjects.replay(self.name, turn), codec.encode(ReplayRequest(index)), timeout=REPLAY_SECONDS
            )
            return codec.decode(reply.data, Replay, reply.headers)
        except (nats.errors.Error, TimeoutError, InvalidMessage) as error:
            raise ReplayUnavailable(turn, str(error) or type(error).__name__) from None

    async def tell_run(self, run: str, kind: Literal["run began", "run ended"], text: str = "") -> None:
        """Tells sidecars of a load run, for their dashboards; nobody has to be listening."""
        event = RunEvent(subjects.token(run, "run"), kind, time.time_ns(), text)
        await self.nc.publish(subjects.runs(self.name), codec.encode(event))

    async def workers(self, wait: float = 0.25) -> list[discovery.WorkerInfo]:
        """Every worker that answers within `wait` seconds."""
        return await discovery.find_workers(self.nc, wait)

    async def is_served(self, model: str) -> bool:
        """Whether a worker of the model answers; its queue takes turns also while none does. Raises ServerError."""
        return await serving.is_served(self.nc, model)

    async def served(self, model: str) -> list[discovery.WorkerInfo]:
        """The model's workers that answer, with their load; none where nobody serves it. Raises ServerError."""
        return await serving.served_by(self.nc, model)

    async def until_served(self, model: str, seconds: float = 0.0) -> None:
        """Comes back once a worker serves the model, at once where one does; raises NotServed after so many seconds,
        UnservedModel where no stream takes its turns, ServerError."""
        await serving.until_served(self.nc, model, seconds)

    async def publish(self, turn: Turn, model: str, priority: Priority = DEFAULT_PRIORITY) -> int:
        """Queues a turn; returns its stream sequence once the server has it on disk. Raises PublishError."""
        subject = subjects.turn(model, priority, self.name, turn.id)
        try:
            return (await publishing.publish(self.nc, subject, codec.encode(turn), message_id=turn.id)).sequence
        except NoStream:
            raise UnservedModel(model) from None
        except Duplicate:
            # Ids are random: somebody else used this one, and what is queued is not ours.
            raise DuplicateTurn(turn.id) from None
        except NotStored as error:
            raise QueueFull(model, error.reason) if error.code == jetstream.NOT_TAKEN else error from None


@dataclass(frozen=True)
class PlaceInLine:
    """About where a waiting turn is: `turns_ahead` before it, and when it may begin, if turns were seen to move."""

    turns_ahead: int
    seconds: float | None


class _Place:
    """Reckons a place from the consumer's progress: rank at the start, less what was taken since."""

    def __init__(self, sequence: int, base: int, rank: int) -> None:
        self._sequence, self._base, self._rank = sequence, base, max(0, rank - 1)
        self._progress = base
        self._started_at = time.perf_counter()

    async def on_beacon(self, message: Msg) -> None:
        with suppress(InvalidMessage):
            self._progress = max(self._progress, codec.decode(message.data, Beacon, message.headers).sequence)

    def now(self) -> PlaceInLine:
        span = max(1, self._sequence - self._base)
        share = min(1.0, max(0, self._progress - self._base) / span)
        ahead = round(self._rank * (1 - share))
        taken = self._rank - ahead
        seconds = (time.perf_counter() - self._started_at) / taken * ahead if taken else None
        return PlaceInLine(ahead, seconds)


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

    def __init__(self, client: Client, turn: Turn, model: str, priority: Priority) -> None:
        self._client = client
        self._priority = priority
        self._subscription: Subscription | None = None
        self._beacons: Subscription | None = None
        self._begin(turn, model)

    def _begin(self, turn: Turn, model: str) -> None:
        """As before anything was sent."""
        self._model = subjects.token(model, "model")
        self._sequence: int | None = None
        self.turn = turn
        self.end: End | None = None
        self.started: Started | None = None
        self.sent_at: float | None = None
        """When the turn was published, by the monotonic clock."""
        self._was_refused = False
        self.acknowledged_at: float | None = None
        self.text = ""
        self._num_tokens = 0
        self._next_index = 0
        self._attempt = 0
        self._num_reconnects = 0
        self._starts: set[Started] = set()
        self._may_ask_at = 0.0
        self._late_at: float | None = None
        """When the deadline was seen to have passed, by the monotonic clock."""
        self._place: _Place | None = None

    @property
    def model(self) -> str:
        """Whose queue the turn goes to."""
        return self._model

    @property
    def num_tokens(self) -> int:
        """Generated ones that have arrived of this attempt."""
        return self._num_tokens

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
        """Sends the turn, subscribed to its answer first. Iterating does this by itself."""
        if self._subscription is not None:
            return
        await self._subscribe()
        self.sent_at = time.perf_counter()
        try:
            self._sequence = await self._client.publish(self.turn, self._model, self._priority)
        except BaseException as error:
            self._was_refused = _is_refusal(error)
            await self.close()
            raise
        self.acknowledged_at = time.perf_counter()

    async def place(self) -> PlaceInLine | None:
        """About the how manieth in line the turn is, and how long that takes; None once a worker has it, or while the
        server does not tell.

        The first call asks the server (0.2 ms), later ones reckon from what workers tell as they take turns.
        """
        if self.started is not None or self.end is not None or self._sequence is None:
            return None
        if self._place is None:
            if not self._client.nc.is_connected:
                return None
            stream = subjects.turns_stream(self._model)
            try:
                info = await jetstream.consumer(self._client.nc, stream, self._priority)
                if info is None:
                    return None
                place = _Place(self._sequence, info.delivered.stream_sequence, info.num_pending)
                subject = subjects.queue(self._model, self._priority)
                self._beacons = await self._client.nc.subscribe(subject, cb=place.on_beacon)
            except (ServerError, nats.errors.Error):  # it has restarted, say: the turn waits all the same
                return None
            self._place = place
        return self._place.now()

    async def _subscribe(self) -> None:
        self._num_reconnects = self._client.nc.stats["reconnects"]
        self._subscription = await self._client.nc.subscribe(
            subjects.live(self._client.name, self.turn.id),
            pending_msgs_limit=4096,
            pending_bytes_limit=16 * 1024 * 1024,
        )

    async def close(self) -> None:
        """Stops listening; the turn goes on and can be read later."""
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()
        if self._beacons is not None:
            beacons, self._beacons = self._beacons, None
            with suppress(nats.errors.Error):
                await beacons.unsubscribe()

    async def cancel(self, reason: Literal["cancelled", "deadline"] = "cancelled") -> None:
        """Stops the turn, queued or running; the answer then ends with the finish reason `cancelled`."""
        cancel = Cancel(sequence=self._sequence, model=self._model, sent_at=time.time(), reason=reason)
        await self._client._publish_cancel(subjects.cancel_turn(self._client.name, self.turn.id), cancel)

    @property
    def _has_more(self) -> bool:
        """Whether there is something to yield although the end is known."""
        return False

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        await self.publish()
        try:
            while self.end is None or self._has_more:
                for chunk in await self._next():
                    yield chunk
        finally:
            await self.close()
        if isinstance(self.end, Failed):
            raise TurnFailed(self.turn.id, self.end)

    async def _next(self) -> list[Chunk]:
        """Waits for something to arrive and returns what it adds to the answer."""
        assert self._subscription is not None
        try:
            message: Msg = await self._subscription.next_msg(timeout=self._patience())
        except (nats.errors.TimeoutError, TimeoutError):
            if await self._is_just_late():
                return []
            found = await self._look_after()
            self._keep_deadline()
            return found
        if (message.headers or {}).get(jetstream.STREAM) == subjects.ENDS:
            self.end = replies.understood_end(message.data, message.headers)
            return self._rest()
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
            return self._rest()
        if isinstance(arrived, Started) and arrived.attempt > self._attempt:
            self._next_index = arrived.index  # what is missing before it is void anyway
        if arrived.index > self._next_index:
            return await self._fill()  # it is among what is missing
        return self._take(arrived)

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
            return self._rest()
        num_reconnects = self._client.nc.stats["reconnects"]
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
                replay = await self._client._replay(self.turn.id, self._next_index)
            except ReplayUnavailable:
                self._may_ask_at = time.perf_counter() + ASK_AGAIN_SECONDS
                break
            index = self._next_index
            for payload in replay.messages:
                with suppress(InvalidMessage):
                    reply = codec.decode_reply(payload)
                    found += self._take(reply) if not isinstance(reply, Done | Failed) else []
            # Where nothing of it was of use, asking again gives the same: the end makes up for it.
            is_whole = replay.is_whole or self._next_index == index
        return found

    def _take(self, reply: Reply | Other) -> list[Chunk]:
        if isinstance(reply, Started) and reply not in self._starts:
            self._starts.add(reply)
            # A server that was killed may have lost chunks that we saw; the next worker goes on before them.
            self._next_index = min(self._next_index, reply.index)
        if reply.index != self._next_index:
            return []  # known already; or behind a hole that could not be filled
        self._next_index += 1
        if reply.attempt > self._attempt:
            # Started anew: the reader is told by the chunk's attempt, and drops what it had.
            self._attempt, self.text, self._num_tokens = reply.attempt, "", 0
        if isinstance(reply, Started):
            self.started = reply
        return self._added(reply) if isinstance(reply, Chunk) else []

    def _added(self, chunk: Chunk) -> list[Chunk]:
        """The chunk, less what of it was seen before; none behind a hole, which the end or a new attempt fills, and
        none of an attempt before the one that is read."""
        if chunk.attempt < self._attempt or chunk.token_offset > self._num_tokens or chunk.text_offset > len(self.text):
            return []
        text = chunk.text[max(0, len(self.text) - chunk.text_offset) :]
        tokens = chunk.tokens[max(0, self._num_tokens - chunk.token_offset) :]
        if len(tokens) < len(chunk.tokens):
            logprobs = chunk.logprobs[len(chunk.logprobs) - len(tokens) :] if tokens else ()
            offsets = len(self.text), self._num_tokens
            chunk = Chunk(chunk.index, chunk.attempt, text, tokens, logprobs, *offsets)
        self.text += text
        self._num_tokens += len(tokens)
        return [chunk] if text or tokens else []

    def _rest(self) -> list[Chunk]:
        """What the end holds beyond the chunks that arrived: all of it, as an attempt of its own, where what arrived is
        not how it begins."""
        end = self.end
        if not isinstance(end, Done):
            return []
        is_void = False
        if end.attempt != self._attempt or not end.text.startswith(self.text):
            if end.finish_reason == "cancelled" and end.attempt <= self._attempt and self.text.startswith(end.text):
                return []  # stopped before another worker had begun: what was read is all there is
            is_void = bool(self.text or self._num_tokens)
            self._attempt = max(end.attempt, self._attempt + is_void)
            self.text, self._num_tokens = "", 0
        text, tokens = end.text[len(self.text) :], end.tokens[self._num_tokens :]
        if not text and not tokens and not is_void:
            return []
        self.text += text
        self._num_tokens += len(tokens)
        offsets = len(end.text) - len(text), len(end.tokens) - len(tokens)
        return [Chunk(max(end.num_chunks, self._next_index), self._attempt, text, tokens, (), *offsets)]


class _Followed(Answer):
    """The answer to a turn that is queued already."""

    def __init__(self, client: Client, turn: str) -> None:
        known = Turn(subjects.token(turn, "turn"), turn, (Message("user", ""),))
        super().__init__(client, known, "unknown", DEFAULT_PRIORITY)
        self._early: list[Chunk] = []

    async def publish(self) -> None:
        """Only listens, and reads what there is."""
        if self._subscription is not None:
            return
        await self._subscribe()
        self.end = await self._client.read(self.turn.id)
        self._early = self._rest() if self.end is not None else await self._fill()

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
