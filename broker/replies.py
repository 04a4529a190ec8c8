"""The answer to a turn as it is written: `started`, chunks behind their fence, then one end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nats.errors
from msgspec import Struct
from nats.aio.client import Client as NatsConnection
from nats.aio.subscription import Subscription

from broker import codec, subjects, topology
from broker.errors import Fenced, InvalidMessage, ServerError
from broker.messages import (
    NOT_UNDERSTOOD,
    Chunk,
    Done,
    End,
    Failed,
    HandedBack,
    Other,
    Reply,
    Started,
    TokenLogprob,
)
from broker.subjects import TurnAddress

FENCE = "Nats-Expected-Last-Subject-Sequence"
WRONG_LAST_SEQUENCE = (10071, 10164)
STREAM_FULL = 10077
ENDS_REMOVED = 64
RETRY_SECONDS = 1.0
BATCH = 256
"""Messages of one batched direct get."""

log = logging.getLogger(__name__)


class Stored(Struct, frozen=True):
    """A message as a stream holds it."""

    payload: bytes
    sequence: int
    headers: dict[str, str]

    @property
    def stored_at(self) -> float:
        """Seconds since the epoch, by the server's clock."""
        # Nanoseconds, of which Python's parser takes six digits.
        whole, _, fraction = self.headers["Nats-Time-Stamp"].rstrip("Z").partition(".")
        return datetime.fromisoformat(f"{whole}.{fraction[:6] or 0}+00:00").timestamp()


@dataclass(frozen=True)
class StoredReply:
    """A message of a turn's reply as REPLIES holds it."""

    reply: Reply | Other
    sequence: int
    payload: bytes


async def last_stored(nc: NatsConnection, stream: str, subject: str) -> Stored | None:
    """The last message of one subject by direct get, or None. Raises ServerError when the stream does not answer."""
    try:
        reply = await nc.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", timeout=5)
    except (nats.errors.Error, TimeoutError) as error:
        raise ServerError(f"direct get of {subject}: {str(error) or type(error).__name__}") from error
    headers = dict(reply.headers or {})
    if headers.get("Status") == "404":
        return None
    if "Nats-Sequence" not in headers:
        raise ServerError(f"direct get of {subject}: {headers.get('Status')} {headers.get('Description')}")
    return Stored(reply.data, int(headers["Nats-Sequence"]), headers)


async def read_end(nc: NatsConnection, client: str, turn: str) -> End | None:
    """The end of a turn, or None while it has none. One that is not understood is a failure that says so."""
    stored = await last_stored(nc, subjects.ENDS, subjects.end(client, turn))
    return None if stored is None else understood_end(stored.payload, stored.headers)


def understood_end(payload: bytes, headers: Mapping[str, str] | None) -> End:
    """The end in a payload; a failure that says so where it is not understood."""
    try:
        found = codec.decode_reply(payload, headers)
    except InvalidMessage as error:
        return not_understood(error)
    if isinstance(found, Done | Failed):
        return found
    kind = found.type[:64] if isinstance(found, Other) else type(found).__name__
    return not_understood(f"an end of the kind {kind!r}")


def not_understood(what: object) -> Failed:
    """What an answer of a later release ends as for a reader of this one."""
    return Failed(NOT_UNDERSTOOD, f"the turn is answered by another release, and its answer is not understood: {what}")


async def read_stored(nc: NatsConnection, stream: str, subject: str, limit: int | None = None) -> list[Stored]:
    """All messages of a subject or filter, in order, up to `limit`. Not a producer's right; raises ServerError."""
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    found: list[Stored] = []
    try:
        while limit is None or len(found) < limit:
            size = BATCH if limit is None else min(BATCH, limit - len(found))
            request = {"seq": found[-1].sequence + 1 if found else 1, "next_by_subj": subject, "batch": size}
            await nc.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
            num_before = len(found)
            while (status := await _next_of_batch(subscription, found)) is None:
                pass
            if status == "404" or len(found) - num_before < size:
                break
        return found
    except (nats.errors.Error, TimeoutError) as error:
        raise ServerError(f"direct get of {subject}: {str(error) or type(error).__name__}") from error
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def _next_of_batch(subscription: Subscription, found: list[Stored]) -> str | None:
    """Appends the next message of a batched direct get; the status that ends the batch, or None."""
    message = await subscription.next_msg(timeout=5)
    headers = dict(message.headers or {})
    status = headers.get("Status")
    if status in ("404", "204"):  # no such message; the end of the batch
        return status
    if "Nats-Sequence" not in headers:
        raise ServerError(f"direct get: {status} {headers.get('Description')}")
    found.append(Stored(message.data, int(headers["Nats-Sequence"]), headers))
    return None


async def read_replies(nc: NatsConnection, client: str, turn: str) -> list[StoredReply]:
    """All that is stored of a turn's reply, in order. A worker's right; raises ServerError."""
    found: list[StoredReply] = []
    for one in await read_stored(nc, subjects.REPLIES, subjects.reply(client, turn)):
        before = found[-1].reply if found else None
        found.append(StoredReply(_understood(one, before), one.sequence, one.payload))
    return found


def _understood(stored: Stored, before: Reply | Other | None) -> Reply | Other:
    """A stored message of a reply; one of another release keeps its place, or gets that behind the one before."""
    try:
        found = codec.decode_reply(stored.payload, stored.headers)
    except InvalidMessage as error:
        log.warning("reply not understood sequence=%d error=%s", stored.sequence, error)
        known = codec.place_of(stored.payload, stored.headers)
        next_place = (before.index + 1, before.attempt) if before is not None else (0, 0)
        return Other("", *(known or next_place))
    if isinstance(found, Done | Failed):
        next_index = before.index + 1 if before is not None else 0
        return Other("", next_index, found.attempt)
    return found


class ReplyWriter:
    """Writes one turn's reply for one worker. Each write is refused once another worker has written (Fenced)."""

    def __init__(self, nc: NatsConnection, address: TurnAddress, worker: str) -> None:
        self._nc = nc
        self._address = address
        self._worker = worker
        self._subject = subjects.reply(address.client, address.turn)
        self._sequence = 0
        self._text_offset = 0
        self._token_offset = 0
        self.num_chunks = 0
        self.attempt = 0
        self.resumed_text = ""
        self.resumed_tokens: tuple[int, ...] = ()
        """What an earlier worker has sent of this attempt: the answer goes on behind it."""
        self.workers: tuple[str, ...] = ()
        """Who started the turn before, in order."""

    async def start(self, model: str = "", *, can_resume: bool = True) -> Started:
        """Says that the turn is seated, to go on where an earlier worker stopped, or anew with the next attempt.

        It goes on when that worker had the same `model`, a fingerprint, and what it sent is all there.
        """
        stored = await read_replies(self._nc, self._address.client, self._address.turn)
        num_starts = 1
        if stored:
            self._sequence = stored[-1].sequence
            earlier = [one.reply for one in stored]
            self.num_chunks, self.attempt = earlier[-1].index + 1, earlier[-1].attempt
            self.workers = tuple(reply.worker for reply in earlier if isinstance(reply, Started))
            num_starts += sum(isinstance(reply, Started) for reply in earlier)
            num_starts -= sum(isinstance(reply, HandedBack) for reply in earlier)
            current = [reply for reply in earlier if reply.attempt == self.attempt]
            chunks = [reply for reply in current if isinstance(reply, Chunk)]
            if can_resume and _is_whole(current, model):
                self.resumed_text = "".join(chunk.text for chunk in chunks)
                self.resumed_tokens = tuple(token for chunk in chunks for token in chunk.tokens)
                self._text_offset, self._token_offset = len(self.resumed_text), len(self.resumed_tokens)
            else:
                self.attempt += 1
        started = Started(self.num_chunks, self.attempt, self._worker, max(1, num_starts), model)
        await self._write(started)
        return started

    async def hand_back(self) -> None:
        """Says that this start was no crash."""
        await self._write(HandedBack(self.num_chunks, self.attempt))

    async def write(self, text: str, tokens: tuple[int, ...], logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        """Sends the next chunk; comes back when it is stored."""
        offsets = self._text_offset, self._token_offset
        await self._write(Chunk(self.num_chunks, self.attempt, text, tokens, logprobs, *offsets))
        self._text_offset += len(text)
        self._token_offset += len(tokens)

    async def _write(self, reply: Reply) -> None:
        payload = codec.encode(reply)
        while True:
            answer = await self._publish(self._subject, payload, {FENCE: str(self._sequence)})
            match answer:  # an error carries a sequence too, zero, so it is looked for first
                case {"error": {"err_code": code}} if code in WRONG_LAST_SEQUENCE:
                    # Either somebody else's write, or ours, stored while its acknowledgement was lost.
                    stored = await last_stored(self._nc, subjects.REPLIES, self._subject)
                    if stored is None or stored.payload != payload or stored.sequence <= self._sequence:
                        raise Fenced(self._address.turn)
                    self._sequence = stored.sequence
                    break
                case {"seq": sequence} if "error" not in answer:
                    self._sequence = sequence
                    break
                case _:
                    log.warning("chunk not stored turn=%s answer=%s", self._address.turn, answer)
                    await asyncio.sleep(RETRY_SECONDS)
        self.num_chunks += 1

    async def end(self, end: End) -> bool:
        """Writes the end; False when the turn already had one. Tries until the server has answered."""
        return await write_end(self._nc, self._address, end)

    async def _publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> dict[str, Any]:
        return await _publish(self._nc, subject, payload, headers)


def _is_whole(attempt: list[Reply | Other], model: str) -> bool:
    """Whether a worker with this model can go on with what is stored of an attempt.

    Not behind a start or a chunk that is not understood; a kind that a later release added has no tokens.
    """
    if any(isinstance(reply, Other) and (not reply.type or codec.is_known_reply(reply.type)) for reply in attempt):
        return False
    starts = [reply for reply in attempt if isinstance(reply, Started)]
    indices = [reply.index for reply in attempt]
    num_tokens = 0
    for reply in attempt:
        if isinstance(reply, Chunk):
            # A killed server that lost a chunk gives its sequence again, and with it a fence that a worker still holds.
            if reply.token_offset != num_tokens:
                return False
            num_tokens += len(reply.tokens)
    return (
        isinstance(attempt[0], Started)
        and all(start.model == model for start in starts)
        and indices == list(range(indices[0], indices[0] + len(indices)))
    )


async def write_end(nc: NatsConnection, address: TurnAddress, end: End) -> bool:
    """Writes the end of a turn; False when it already had one. The server decides: the first writer wins."""
    subject = subjects.end(address.client, address.turn)
    payload = codec.encode(end)
    if len(payload) > nc.max_payload and isinstance(end, Done):
        detail = f"the answer has {len(payload):,} bytes, over the server's max_payload of {nc.max_payload:,}"
        payload = codec.encode(Failed("answer_too_large", detail, worker=end.worker, attempt=end.attempt))
    while True:
        answer = await _publish(nc, subject, payload, {})
        match answer:
            case {"error": {"description": description}} if "per subject" in description:
                stored = await last_stored(nc, subjects.ENDS, subject)
                return stored is not None and stored.payload == payload
            case {"error": {"err_code": code}} if code == STREAM_FULL:
                await _make_room(nc)
            case {"seq": _} if "error" not in answer:
                return True
            case _:
                log.warning("end not stored turn=%s answer=%s", address.turn, answer)
                await asyncio.sleep(RETRY_SECONDS)


async def _make_room(nc: NatsConnection) -> None:
    """Removes the oldest ends of a full stream.

    A stream that refuses a second message of a subject also refuses what is over its bytes, instead of dropping the
    oldest as others do; and a turn that cannot end would be computed again and again.
    """
    try:
        info = await topology.api(nc, f"STREAM.INFO.{subjects.ENDS}")
        first = info["state"]["first_seq"] if info is not None else 0
        for sequence in range(first, first + ENDS_REMOVED):
            # Another worker may be at it too, or it has gone by age: that is no error.
            with contextlib.suppress(ServerError):
                await topology.api(nc, f"STREAM.MSG.DELETE.{subjects.ENDS}", {"seq": sequence, "no_erase": True})
        log.info("ends removed to make room from=%d num=%d", first, ENDS_REMOVED)
    except ServerError as error:
        log.warning("no room for an end error=%s", error)
        await asyncio.sleep(RETRY_SECONDS)


async def _publish(nc: NatsConnection, subject: str, payload: bytes, headers: dict[str, str]) -> dict[str, Any]:
    headers = headers | {codec.CONTENT_TYPE: codec.MSGPACK}
    try:
        reply = await nc.request(subject, payload, timeout=5, headers=headers)
    except (nats.errors.Error, TimeoutError) as error:
        if nc.is_closed:
            raise
        return {"lost": str(error) or type(error).__name__}
    answer: dict[str, Any] = json.loads(reply.data)
    return answer
