"""The answer to a turn as it is written: `started`, chunks behind their fence, then one end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from broker import codec, jetstream, publishing, subjects
from broker.errors import (
    ConnectionLost,
    Fenced,
    InvalidMessage,
    NoStream,
    NotAcknowledged,
    NotStored,
    ServerError,
)
from broker.jetstream import StoredMessage
from broker.messages import (
    NOT_UNDERSTOOD,
    CallDelta,
    Chunk,
    Done,
    End,
    Failed,
    HandedBack,
    Other,
    Progress,
    Reply,
    Started,
    TokenLogprob,
)
from broker.offsets import Offsets, halves, is_divisible
from broker.retrying import retried
from broker.subjects import TurnAddress
from broker.wire import Wire

MAX_DETAIL = 2000
"""Characters of why a turn failed: a stranger's value may stand in it."""
BRIEF_SECONDS = 300
"""How long an end of vectors, or of a prompt's pieces, is kept: a list of texts makes a megabyte of them in a second,
and would push out the answers that are kept for a day."""
ENDS_REMOVED = 64
_FULL_MARGIN = 4096
"""What the server keeps with a message: its subject, headers and a frame."""
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredReply:
    """A message of a turn's reply as REPLIES holds it."""

    reply: Reply | Other
    sequence: int
    payload: bytes


async def read_end(nc: Wire, client: str, turn: str) -> End | None:
    """The end of a turn, or None while it has none. One that is not understood is a failure that says so."""
    stored = await jetstream.last_stored(nc, subjects.ENDS, subjects.end(client, turn))
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


async def read_replies(nc: Wire, client: str, turn: str) -> list[StoredReply]:
    """All that is stored of a turn's reply, in order. A worker's right; raises ServerError."""
    found: list[StoredReply] = []
    for one in await jetstream.read_stored(nc, subjects.REPLIES, subjects.reply(client, turn)):
        before = found[-1].reply if found else None
        found.append(StoredReply(_understood(one, before), one.sequence, one.payload))
    return found


def _understood(stored: StoredMessage, before: Reply | Other | None) -> Reply | Other:
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

    def __init__(self, nc: Wire, address: TurnAddress, worker: str, num_tokens: int | None = None) -> None:
        """`num_tokens`: of the model's vocabulary, None for one that has any number."""
        self._nc = nc
        self._num_tokens = num_tokens
        self._address = address
        self._worker = worker
        self._subject = subjects.reply(address.client, address.turn)
        self._sequence = 0
        self._offsets = Offsets()
        self.num_chunks = 0
        self.attempt = 0
        self.resumed_text = ""
        self.resumed_tokens: tuple[int, ...] = ()
        """What an earlier worker has sent of this attempt: the answer goes on behind it."""
        self.workers: tuple[str, ...] = ()
        """Who started the turn before, in order."""

    async def start(
        self, model: str = "", *, grammar: str = "", can_resume: bool = True, num_prompt_tokens: int = 0
    ) -> Started:
        """Says that the turn is seated, to go on where an earlier worker stopped, or anew with the next attempt.

        It goes on when that worker had the same `model` and `grammar`, fingerprints, and what it sent is all there, in
        tokens of the model's: llama.cpp ends the process for any other. The reader is told `num_prompt_tokens`.
        It takes over from whoever still writes to the turn: what that one writes between our reading and our writing is
        read, too. Of several that begin at once all but one are refused (Fenced).
        """
        stored = await self._read()
        while True:
            started = self._take_place_behind([one.reply for one in stored], model, grammar, can_resume=can_resume)
            started = replace(started, prompt_tokens=num_prompt_tokens)
            self._sequence = stored[-1].sequence if stored else 0
            try:
                await self._write(started)
            except Fenced:
                stored = await self._read()
                newer = [one.reply for one in stored if one.sequence > self._sequence]
                if not newer or not all(isinstance(reply, Chunk | HandedBack) for reply in newer):
                    raise
            else:
                return started

    async def _read(self) -> list[StoredReply]:
        return await read_replies(self._nc, self._address.client, self._address.turn)

    def _take_place_behind(
        self, earlier: list[Reply | Other], model: str, grammar: str, *, can_resume: bool
    ) -> Started:
        """The start that comes behind what is stored; what comes then goes on with it, or is the next attempt."""
        self.resumed_text, self.resumed_tokens = "", ()
        self._offsets = Offsets()
        num_starts = 1
        if earlier:
            self.num_chunks, self.attempt = earlier[-1].index + 1, earlier[-1].attempt
            self.workers = tuple(reply.worker for reply in earlier if isinstance(reply, Started))
            num_starts += sum(isinstance(reply, Started) for reply in earlier)
            num_starts -= sum(isinstance(reply, HandedBack) for reply in earlier)
            current = [reply for reply in earlier if reply.attempt == self.attempt]
            chunks = [reply for reply in current if isinstance(reply, Chunk)]
            has_all = all(self._has(token) for chunk in chunks for token in chunk.tokens)
            if can_resume and has_all and _is_whole(current, model, grammar):
                self.resumed_text = "".join(chunk.text for chunk in chunks)
                self.resumed_tokens = tuple(token for chunk in chunks for token in chunk.tokens)
                self._offsets = Offsets.behind(chunks)
            else:
                self.attempt += 1
        return Started(self.num_chunks, self.attempt, self._worker, max(1, num_starts), model, grammar)

    def _has(self, token: int) -> bool:
        return token >= 0 and (self._num_tokens is None or token < self._num_tokens)

    async def hand_back(self) -> None:
        """Says that this start was no crash."""
        await self._write(HandedBack(self.num_chunks, self.attempt))

    async def write(
        self,
        text: str,
        tokens: tuple[int, ...],
        logprobs: tuple[TokenLogprob, ...] = (),
        *,
        reasoning: str = "",
        calls: tuple[CallDelta, ...] = (),
        progress: tuple[Progress, ...] = (),
    ) -> None:
        """Sends the next chunk; comes back when it is stored. What gathered while the server was away may be more than
        one. Where deltas of calls stand is for this to say."""
        calls = self._offsets.placed(calls)
        chunk = Chunk(
            *(self.num_chunks, self.attempt, text, tokens, logprobs, self._offsets.text, self._offsets.tokens),
            *(reasoning, self._offsets.reasoning if reasoning else 0, calls, progress),
        )
        payload = codec.encode(chunk)
        # Half of what may be sent, so that a replay holds at least one.
        if len(payload) > publishing.limit(self._nc) // 2 and is_divisible(chunk):
            await self._write_halves(chunk)
            return
        await self._write_payload(payload)
        self._offsets = self._offsets.moved_by(chunk)

    async def _write_halves(self, chunk: Chunk) -> None:
        """First the thoughts, then the text, then the calls: each has its place behind what comes before it."""
        characters, half, thoughts = len(chunk.text) // 2, len(chunk.tokens) // 2, len(chunk.reasoning) // 2
        calls, rest = halves(chunk.calls)
        await self.write(
            chunk.text[:characters],
            chunk.tokens[:half],
            chunk.logprobs[:half],
            reasoning=chunk.reasoning[:thoughts],
            calls=calls,
            progress=chunk.progress,
        )
        await self.write(
            chunk.text[characters:],
            chunk.tokens[half:],
            chunk.logprobs[half:],
            reasoning=chunk.reasoning[thoughts:],
            calls=rest,
        )

    async def _write(self, reply: Reply) -> None:
        await self._write_payload(codec.encode(reply))

    async def _write_payload(self, payload: bytes) -> None:
        is_retry = False

        async def store() -> int:
            nonlocal is_retry
            was_sent, is_retry = is_retry, True
            return await self._store(payload, was_sent=was_sent)

        self._sequence = await _stored(self._nc, store, what="chunk", turn=self._address.turn)
        self.num_chunks += 1

    async def _store(self, payload: bytes, *, was_sent: bool) -> int:
        """The sequence of the stored message, which `was_sent` before. Raises Fenced, PublishError."""
        fence = {jetstream.LAST_SUBJECT_SEQUENCE: str(self._sequence)}
        try:
            return (await publishing.publish(self._nc, self._subject, payload, headers=fence)).sequence
        except NotStored as error:
            if error.code not in jetstream.WRONG_LAST_SEQUENCE:
                raise
        # Either somebody else's write, or ours, stored while its acknowledgement was lost. What was not sent before is
        # not ours, even where it is the same to the byte: a turn may come back to the worker that still has it.
        if was_sent:
            last = await jetstream.last_stored(self._nc, subjects.REPLIES, self._subject)
            if last is not None and last.payload == payload and last.sequence > self._sequence:
                return last.sequence
        raise Fenced(self._address.turn)

    async def end(self, end: End) -> bool:
        """Writes the end; False when the turn already had one. Tries until the server has answered."""
        return await write_end(self._nc, self._address, end)


def _is_whole(attempt: list[Reply | Other], model: str, grammar: str) -> bool:
    """Whether a worker with this model and this grammar can go on with what is stored of an attempt.

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
        and all((start.model, start.grammar) == (model, grammar) for start in starts)
        and indices == list(range(indices[0], indices[0] + len(indices)))
    )


async def write_end(nc: Wire, address: TurnAddress, end: End) -> bool:
    """Writes the end of a turn; False when it already had one. The server decides: the first writer wins."""
    subject = subjects.end(address.client, address.turn)
    is_brief = isinstance(end, Done) and (end.embeddings is not None or bool(end.pieces))
    headers = {jetstream.MESSAGE_TTL: str(BRIEF_SECONDS)} if is_brief else {}
    payload = _fitting(nc, end, headers)

    async def store() -> bool:
        while True:
            try:
                await publishing.publish(nc, subject, payload, headers=headers)
                return True
            except NotStored as error:
                if error.code == jetstream.NO_TTL and headers:
                    headers.clear()  # an older release has made the stream: kept as long as all
                    continue
                if error.code != jetstream.NOT_TAKEN:
                    raise
            # Either there is one already, maybe ours, stored while its acknowledgement was lost; or the stream is full.
            stored = await jetstream.last_stored(nc, subjects.ENDS, subject)
            if stored is not None:
                return stored.payload == payload
            await _make_room(nc, len(payload))

    return await _stored(nc, store, what="end", turn=address.turn)


async def _stored[T](nc: Wire, store: Callable[[], Awaitable[T]], *, what: str, turn: str) -> T:
    """What `store` comes back with, tried until the server has answered. Raises ConnectionLost where it never will."""

    def tell(error: Exception) -> None:
        if nc.is_closed:
            raise ConnectionLost(f"the connection to NATS is closed: {error}") from None
        log.warning("%s not stored turn=%s error=%s", what, turn, error)

    return await retried(store, after=(NotStored, NoStream, NotAcknowledged), delay=RETRY_SECONDS, tell=tell)


def _fitting(nc: Wire, end: End, headers: Mapping[str, str]) -> bytes:
    """The bytes of an end that the server takes: for an answer that is too large, those of one that says so."""
    if isinstance(end, Failed) and len(end.detail) > MAX_DETAIL:
        end = replace(end, detail=f"{end.detail[:MAX_DETAIL]}…")
    payload = codec.encode(end)
    if publishing.fits(nc, payload, headers) or isinstance(end, Failed):
        return payload
    size = publishing.num_bytes(payload, publishing.with_content_type(headers))
    detail = f"the answer has {size:,} bytes, over the server's max_payload of {publishing.limit(nc):,}"
    return codec.encode(Failed("answer_too_large", detail, worker=end.worker, attempt=end.attempt))


async def _make_room(nc: Wire, num_bytes: int) -> None:
    """Removes the oldest ends of a full stream.

    A stream that refuses a second message of a subject also refuses what is over its bytes, instead of dropping the
    oldest as others do; and a turn that cannot end would be computed again and again.
    """
    try:
        info = await jetstream.stream(nc, subjects.ENDS)
        most = info.max_bytes if info is not None else None
        if info is None or most is None or most >= info.state.num_bytes + num_bytes + _FULL_MARGIN:
            # The server answers alike where its disk is full: nobody's end is given for that.
            log.warning("ends are not taken, and the stream is not full")
            await asyncio.sleep(RETRY_SECONDS)
            return
        first = info.state.first_sequence
        for sequence in range(first, first + ENDS_REMOVED):
            # Another worker may be at it too, or it has gone by age: that is no error.
            with contextlib.suppress(ServerError):
                await jetstream.delete(nc, subjects.ENDS, sequence, overwrite=False)
        log.info("ends removed to make room from=%d num=%d", first, ENDS_REMOVED)
    except ServerError as error:
        log.warning("no room for an end error=%s", error)
        await asyncio.sleep(RETRY_SECONDS)
