"""Which models are where: the NATS KV bucket PLACEMENT. Boards say in it what they have and could have, and claim what
they load; operators say what they want.

What a board says expires with it: the server forgets an entry that was not written again in time, by its own clock. A
server without the bucket, which an older release has set up, is one without boards.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import msgspec
import nats.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker import codec, connection, jetstream, publishing, subjects
from broker.errors import InvalidMessage, NotReady, NotStored, ServerError
from broker.messages.boards import MAX_STATE_BYTES, BoardState, Claim, ModelOnBoard, Order

SAY_SECONDS = 2.0
"""How often a board says how it is, at the least."""
BOARD_SECONDS = 10
"""How long that holds."""
RENEW_SECONDS = 3.0
"""How often a claim is renewed."""
CLAIM_SECONDS = 10
"""How long it holds without."""
HEADER_BYTES = 1024
"""What an entry has besides, at most."""
SHORT_REASON = 60
"""Letters of a reason, where there are too many."""
TELL_SECONDS = 2.0
"""For the server to take an entry."""
READ_SECONDS = 1.0
"""To read all."""
REFUSED_SECONDS = 60.0
"""Until a server that has not let us ask is asked again."""
_ASKED = jetstream.api_subject(jetstream.DIRECT_GET, subjects.KV_PLACEMENT)
CLAIM_TRIES = 4
"""To write a claim that somebody else writes at the same time."""

Value = BoardState | Claim | Order
_KINDS: dict[str, type[Value]] = {"board": BoardState, "claim": Claim, "order": Order}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """What the bucket holds."""

    boards: tuple[BoardState, ...] = ()
    """By their names."""
    claims: Mapping[tuple[str, int], Claim] = field(default_factory=dict)
    """By model and copy."""
    orders: Mapping[tuple[str, str | None], Order] = field(default_factory=dict)
    """By model and board, None for all boards."""

    def orders_for(self, model: str, board: str) -> list[Order]:
        """What operators want of a model on a board: first what is said of all boards, then of this one."""
        found = (self.orders.get((model, where)) for where in (None, board))
        return [order for order in found if order is not None]

    def pin(self, model: str, board: str) -> str | None:
        """ALWAYS, NEVER or None: what is said of this board, else of all."""
        return next((order.pin for order in reversed(self.orders_for(model, board)) if order.pin is not None), None)


async def announce(nc: NatsConnection, state: BoardState) -> None:
    """Says how a board is, for the next BOARD_SECONDS. Raises PublishError."""
    payload = codec.encode(state)
    if len(payload) > MAX_STATE_BYTES - HEADER_BYTES:
        # Of hundreds of models: that they are there is worth more than all of what is wrong with them.
        models = tuple(msgspec.structs.replace(one, reason=one.reason[:SHORT_REASON]) for one in state.models)
        payload = codec.encode(msgspec.structs.replace(state, models=models))
    await _put(nc, subjects.placed_board(state.board), payload, seconds=BOARD_SECONDS)


async def withdraw(nc: NatsConnection, board: str) -> None:
    """Says that a board is no more, so that nobody waits until its word expires. Raises PublishError."""
    await _put(nc, subjects.placed_board(board), b"", seconds=BOARD_SECONDS)


async def claim(nc: NatsConnection, wanted: Claim) -> bool:
    """Takes a copy of a model for a board, or renews what the board has of it, for the next CLAIM_SECONDS; False where
    another board has it. Of boards that try at once one gets it. Raises ServerError and PublishError."""
    subject, payload = subjects.placed_claim(wanted.model, wanted.copy), codec.encode(wanted)
    for _ in range(CLAIM_TRIES):
        stored = await _stored(nc, subject)
        if stored is not None and stored.payload:
            known = _value_of(stored)
            if not isinstance(known, Claim) or known.board != wanted.board:
                return False  # what is not understood is a later release's claim
        last = 0 if stored is None else stored.sequence
        if await _put(nc, subject, payload, seconds=CLAIM_SECONDS, last=last):
            return True
        # Somebody wrote meanwhile, and that may have been this board.
    raise ServerError(f"{subject} was written by others {CLAIM_TRIES} times while it was claimed")


async def release(nc: NatsConnection, held: Claim) -> None:
    """Lets go of a copy, if the board still has it. Raises ServerError and PublishError."""
    subject = subjects.placed_claim(held.model, held.copy)
    for _ in range(CLAIM_TRIES):
        stored = await _stored(nc, subject)
        if stored is None or _value_of(stored) != held:
            return
        if await _put(nc, subject, b"", seconds=CLAIM_SECONDS, last=stored.sequence):
            return


async def order(nc: NatsConnection, given: Order) -> None:
    """Says what an operator wants of a model, until something else is said of it; an operator's right. Raises
    PublishError."""
    await _put(nc, subjects.placed_order(given.model, given.board), codec.encode(given))


async def read(nc: NatsConnection) -> Placement:
    """What the bucket holds now; nothing where there is no bucket. Raises ServerError, after READ_SECONDS where the
    server does not let us ask."""
    try:
        return _placement(_value_of(one) for one in await _read(nc))
    except NotReady:
        return Placement()


async def boards(nc: NatsConnection) -> tuple[BoardState, ...]:
    """The boards that are there; none where nobody tells, as on a server of an older release."""
    try:
        return (await read(nc)).boards
    except (ServerError, nats.errors.Error) as error:
        log.debug("boards not read error=%s", error)
        return ()


@dataclass(frozen=True)
class _Entry:
    sequence: int
    value: Value | None
    """None where it was taken back, or is not understood."""
    heard_at: float
    """By the monotonic clock."""

    def holds(self, now: float) -> bool:
        """Whether it is not older than it may be, by the monotonic clock."""
        match self.value:
            case BoardState():
                return now - self.heard_at < BOARD_SECONDS
            case Claim():
                return now - self.heard_at < CLAIM_SECONDS
        return True


class Watch:
    """What the bucket holds, kept up by what the server tells of it. Enter it; a board's right."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self._entries: dict[str, _Entry] = {}
        """By subject."""
        self._heard: Subscription | None = None
        self._change = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._heard = await self._nc.subscribe(subjects.ALL_PLACED, cb=self._on_change)
        try:
            # Heard from here on: what is read next may not be older.
            await self._nc.flush()
            await self.refresh()
        except (ServerError, nats.errors.Error, TimeoutError) as error:
            log.info("placement not read error=%s", error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._heard is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._heard.unsubscribe()

    async def refresh(self) -> None:
        """Reads all again: who was away from the server, or dropped messages, has missed what was said meanwhile. To be
        called every few seconds. Raises ServerError, and forgets nothing then."""
        asked_at = time.perf_counter()
        stored = await _read(self._nc)
        there = {message.subject: message.sequence for message in stored}
        for subject, known in list(self._entries.items()):
            if known.heard_at < asked_at and known.sequence != there.get(subject):
                self._forget(subject)  # gone, or of a bucket that has been made anew since
        for message in stored:
            if self._is_news(message.subject, message.sequence):
                self._take(message.subject, message.sequence, _value_of(message))

    def placement(self) -> Placement:
        """What holds now. An entry that was not written again is gone in time, also while the server is away."""
        now = time.perf_counter()
        return _placement(one.value for one in self._entries.values() if one.value is not None and one.holds(now))

    async def changed(self, seconds: float) -> bool:
        """Comes back when something was written since it came back last, or after so many seconds: False."""
        try:
            async with asyncio.timeout(seconds):
                await self._change.wait()
        except TimeoutError:
            return False
        finally:
            self._change.clear()
        return True

    async def _on_change(self, message: Msg) -> None:
        headers = dict(message.headers or {})
        try:
            subject, sequence = headers[jetstream.SUBJECT], int(headers[jetstream.SEQUENCE])
        except (LookupError, ValueError):
            return  # not the server's word
        if self._is_news(subject, sequence):
            self._take(subject, sequence, _value(subject, message.data, headers))

    def _is_news(self, subject: str, sequence: int) -> bool:
        known = self._entries.get(subject)
        return known is None or known.sequence < sequence

    def _take(self, subject: str, sequence: int, value: Value | None) -> None:
        self._entries[subject] = _Entry(sequence, value, time.perf_counter())
        self._change.set()

    def _forget(self, subject: str) -> None:
        del self._entries[subject]
        self._change.set()


async def _put(
    nc: NatsConnection, subject: str, payload: bytes, *, seconds: int | None = None, last: int | None = None
) -> bool:
    """Writes an entry, an empty one to take it back; False where `last` is not the sequence of its last message."""
    headers = {} if payload else {jetstream.KV_OPERATION: jetstream.KV_DELETED}
    if seconds is not None:
        headers[jetstream.MESSAGE_TTL] = str(seconds)
    if last is not None:
        headers[jetstream.LAST_SUBJECT_SEQUENCE] = str(last)
    try:
        await publishing.publish(nc, subject, payload, headers=headers, timeout=TELL_SECONDS)
    except NotStored as error:
        if last is None or error.code not in jetstream.WRONG_LAST_SEQUENCE:
            raise
        return False
    return True


async def _stored(nc: NatsConnection, subject: str) -> jetstream.StoredMessage | None:
    """The last word on a subject. Raises ServerError: who keeps a claim up cannot wait for one answer for long."""
    try:
        async with asyncio.timeout(TELL_SECONDS):
            return await jetstream.last_stored(nc, subjects.KV_PLACEMENT, subject)
    except TimeoutError:
        raise ServerError(f"{subject}: not read within {TELL_SECONDS:g} s") from None


async def _read(nc: NatsConnection) -> list[jetstream.StoredMessage]:
    """Raises ServerError, NotReady where there is no bucket. One who may not read it is told so at once, and asks again
    after REFUSED_SECONDS."""
    if connection.refused_seconds(nc, _ASKED) < REFUSED_SECONDS:
        raise ServerError(f"{subjects.KV_PLACEMENT}: this account may not read it")
    reading = asyncio.ensure_future(jetstream.read_stored(nc, subjects.KV_PLACEMENT, subjects.ALL_PLACEMENT))
    refusing = asyncio.ensure_future(connection.until_refused(nc, _ASKED, time.monotonic()))
    try:
        await asyncio.wait({reading, refusing}, timeout=READ_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if refusing.done():
            _tell_refused()
            raise ServerError(f"{subjects.KV_PLACEMENT}: this account may not read it")
        if not reading.done():
            raise ServerError(f"{subjects.KV_PLACEMENT}: not read within {READ_SECONDS:g} s")
        return reading.result()
    finally:
        for task in (reading, refusing):
            task.cancel()
        await asyncio.gather(reading, refusing, return_exceptions=True)


@functools.cache
def _tell_refused() -> None:
    """Once."""
    log.warning(
        "boards are not seen, as this account may not read %s: the server's accounts are of an earlier release; start "
        "`turnpike broker` anew, or apply what `turnpike broker secret` writes",
        subjects.KV_PLACEMENT,
    )


def _value_of(stored: jetstream.StoredMessage) -> Value | None:
    return _value(stored.subject, stored.payload, stored.headers)


def _value(subject: str, payload: bytes, headers: Mapping[str, str]) -> Value | None:
    """What an entry says; None where it was taken back, or is not understood, or is not its subject's."""
    kind = _KINDS.get(subjects.placed_kind(subject))
    if not payload or kind is None:
        return None
    try:
        value = _decode(payload, kind, headers)
    except InvalidMessage as error:
        _leave_out(subject, str(error))
        return None
    if _subject(value) != subject:
        _leave_out(subject, f"it is of {_subject(value)}")
        return None
    return value


@functools.lru_cache(maxsize=1024)
def _leave_out(subject: str, reason: str) -> None:
    """Says so, once: boards say the same again and again."""
    log.warning("left out subject=%r placement not understood: %s", subject[:200], reason[:500])


def _decode(payload: bytes, kind: type[Value], headers: Mapping[str, str]) -> Value:
    """A model of a board's that is not understood costs itself. Raises InvalidMessage."""
    if kind is not BoardState:
        return codec.decode(payload, kind, headers)
    state, reasons = codec.decode_rows(payload, BoardState, "models", ModelOnBoard, headers)
    for reason in reasons:
        _leave_out(subjects.placed_board(state.board), reason)
    return state


def _subject(value: Value) -> str:
    match value:
        case BoardState():
            return subjects.placed_board(value.board)
        case Claim():
            return subjects.placed_claim(value.model, value.copy)
        case Order():
            return subjects.placed_order(value.model, value.board)


def _placement(values: Iterable[Value | None]) -> Placement:
    boards: list[BoardState] = []
    claims: dict[tuple[str, int], Claim] = {}
    orders: dict[tuple[str, str | None], Order] = {}
    for value in values:
        match value:
            case BoardState():
                boards.append(value)
            case Claim():
                claims[value.model, value.copy] = value
            case Order():
                orders[value.model, value.board] = value
    return Placement(tuple(sorted(boards, key=lambda one: one.board)), claims, orders)
