"""The answer to a turn as it is written: `started`, chunks behind their fence, then one end."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import nats.errors
from msgspec import Struct
from nats.aio.client import Client as NatsConnection

from broker import codec, subjects
from broker.errors import Fenced, ServerError
from broker.messages import Chunk, Done, End, Failed, Reply, Started, TokenLogprob
from broker.subjects import TurnAddress

FENCE = "Nats-Expected-Last-Subject-Sequence"
WRONG_LAST_SEQUENCE = (10071, 10164)
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


class Stored(Struct, frozen=True):
    """A message as a stream holds it."""

    payload: bytes
    sequence: int
    headers: dict[str, str]


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
    """The end of a turn, or None while it has none."""
    stored = await last_stored(nc, subjects.ENDS, subjects.end(client, turn))
    if stored is None:
        return None
    end: End = codec.decode(stored.payload, End, stored.headers)
    return end


class ReplyWriter:
    """Writes one turn's reply for one worker. Each write is refused once another worker has written (Fenced)."""

    def __init__(self, nc: NatsConnection, address: TurnAddress, worker: str) -> None:
        self._nc = nc
        self._address = address
        self._worker = worker
        self._subject = subjects.reply(address.client, address.turn)
        self._sequence = 0
        self.num_chunks = 0
        self.attempt = 0

    async def start(self) -> Started:
        """Says that the turn is seated. After an earlier worker's chunks the attempt is one higher."""
        stored = await last_stored(self._nc, subjects.REPLIES, self._subject)
        num_starts = 1
        if stored is not None:
            last: Reply = codec.decode(stored.payload, Reply, stored.headers)
            self._sequence = stored.sequence
            self.num_chunks = last.index + 1
            self.attempt = last.attempt + 1
            num_starts = self.attempt + 1
        started = Started(index=self.num_chunks, attempt=self.attempt, worker=self._worker, num_starts=num_starts)
        await self._write(started)
        return started

    async def write(self, text: str, tokens: tuple[int, ...], logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        """Sends the next chunk; comes back when it is stored."""
        await self._write(Chunk(self.num_chunks, self.attempt, text, tokens, logprobs))

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
            case {"seq": _} if "error" not in answer:
                return True
            case _:
                log.warning("end not stored turn=%s answer=%s", address.turn, answer)
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
