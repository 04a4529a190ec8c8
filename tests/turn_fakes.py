"""What a turn's life is given in tests without a server: fakes of its ports, and deliveries on a wire that notes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from nats.aio.msg import Msg

from broker import codec, subjects
from broker.delivery import Delivery
from broker.jetstream import SEQUENCE, STORED_AT, StoredMessage
from broker.messages import (
    CallDelta,
    Cancel,
    DeadLetter,
    Done,
    End,
    Failed,
    Message,
    Progress,
    Started,
    TokenLogprob,
    Turn,
)
from broker.priorities import INTERACTIVE, Lane
from broker.replies import StoredReply
from broker.subjects import TurnAddress
from workers.engine.events import Event, Job, LoopSnapshot
from workers.kv.fetcher import Offer
from workers.kv.index import Key
from workers.turns.work import TurnNotes, Work

CLIENT, MODEL, WORKER = "c", "m", "w1"


class Wire:
    """The connection that deliveries are settled on: notes what the server is told of them."""

    def __init__(self) -> None:
        self.told: list[bytes] = []

    async def publish(self, subject: str, payload: bytes = b"", **_: object) -> None:
        """A word without an answer."""
        self.told.append(payload)

    async def request(self, subject: str, payload: bytes = b"", **_: object) -> None:
        """A word that the server confirms."""
        self.told.append(payload)


def turn_of(text: str = "hello", **changes: Any) -> Turn:
    """A turn that asks for something."""
    return Turn(**{"id": "t1", "conversation": "a", "messages": (Message("user", text),)} | changes)


def delivery_of(
    turn: Turn | bytes,
    wire: Wire | None = None,
    *,
    priority: Lane = INTERACTIVE,
    subject: str | None = None,
    num_delivered: int = 1,
    num_pending: int = 0,
    sequence: int = 1,
    stored_at: float | None = None,
) -> Delivery:
    """A delivery of a turn, or of bytes that are none, as the server makes one."""
    if subject is None:
        subject = subjects.turn(MODEL, priority, CLIENT, turn.id if isinstance(turn, Turn) else "t1")
    nanoseconds = int((time.time() if stored_at is None else stored_at) * 1e9)
    client: Any = wire or Wire()
    reply = f"$JS.ACK.TURNS-{MODEL}.{priority}.{num_delivered}.{sequence}.{sequence}.{nanoseconds}.{num_pending}"
    payload = codec.encode(turn) if isinstance(turn, Turn) else turn
    return Delivery(Msg(_client=client, subject=subject, reply=reply, data=payload, headers=codec_headers()))


def codec_headers() -> dict[str, str]:
    """As a producer sends them with a turn."""
    return {codec.CONTENT_TYPE: codec.MSGPACK}


def work_of(turn: Turn | None = None, wire: Wire | None = None, **delivered: Any) -> Work:
    """A turn in hand."""
    turn = turn or turn_of()
    priority: Lane = delivered.get("priority", INTERACTIVE)
    address = TurnAddress(MODEL, priority, CLIENT, turn.id)
    return Work(delivery_of(turn, wire, **delivered), address, turn, f"{turn.id}/0")


def stored(payload: bytes, sequence: int, stored_at: float) -> StoredMessage:
    """A message as a stream holds it; `stored_at` in seconds since the epoch."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stored_at))
    headers = {SEQUENCE: str(sequence), STORED_AT: f"{whole}.{int(stored_at % 1 * 1e6):06d}Z"}
    return StoredMessage(payload, sequence, headers | codec_headers())


class FakeEnginePort:
    """Implements EnginePort: notes what it is told."""

    def __init__(self, snapshot: LoopSnapshot | None = None) -> None:
        self.snapshot = snapshot or LoopSnapshot()
        self.jobs: list[Job] = []
        self.cancelled: list[str] = []
        self.renamed: list[tuple[Key, str]] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def rename(self, key: Key, name: str, tokens: list[int]) -> None:
        self.renamed.append((key, name))


class FakePeers:
    """Implements Peers: has one offer, or none."""

    def __init__(self, offer: Offer | None = None, seconds: float | None = None) -> None:
        self.offer = offer
        self.seconds = seconds
        self.asked_for: list[str] = []
        self.fetched: list[tuple[Key, int]] = []
        self.announced: list[tuple[str, str, int]] = []
        self.begun: list[tuple[str, str, str, int]] = []

    async def find(self, client: str, turn: Turn) -> Offer | None:
        self.asked_for.append(turn.conversation)
        return self.offer

    async def fetch(self, offer: Offer, key: Key, prompt: bytes, num_here: int) -> float | None:
        self.fetched.append((key, num_here))
        return self.seconds

    async def announce(self, client: str, conversation: str, num_tokens: int) -> None:
        self.announced.append((client, conversation, num_tokens))

    async def announce_beginning(self, client: str, beginning: str, conversation: str, num_tokens: int) -> None:
        self.begun.append((client, beginning, conversation, num_tokens))


class FakeCancels:
    """Implements CancelLookup: every turn was cancelled so, or none."""

    def __init__(self, cancel: Cancel | None = None) -> None:
        self.cancel = cancel

    async def of(self, work: Work) -> Cancel | None:
        return self.cancel


class FakeTurnStore:
    """Implements TurnStore in memory; `error` is raised instead of storing."""

    def __init__(self) -> None:
        self.ends: dict[tuple[str, str], End] = {}
        self.letters: list[DeadLetter] = []
        self.replies: list[StoredReply] = []
        self.steps: list[str] = []
        """What was stored, in order."""
        self.error: Exception | None = None

    async def read_end(self, client: str, turn: str) -> End | None:
        return self.ends.get((client, turn))

    async def write_end(self, address: TurnAddress, end: End) -> bool:
        if self.error is not None:
            raise self.error
        self.steps.append("end")
        return self.ends.setdefault((address.client, address.turn), end) is end

    async def bury(self, letter: DeadLetter, model: str, sequence: int) -> None:
        if self.error is not None:
            raise self.error
        self.steps.append("dead letter")
        self.letters.append(letter)

    async def read_replies(self, client: str, turn: str) -> list[StoredReply]:
        return self.replies


class FakeReport:
    """Implements TurnReport: keeps what it is told."""

    def __init__(self) -> None:
        self.ends: list[End] = []

    def turn(self, delivery: Delivery, turn: Turn | None, end: End, notes: TurnNotes) -> None:
        self.ends.append(end)


class FakeWriter:
    """Implements Writer in memory, behind what an earlier worker has sent; `error` is raised instead of writing."""

    def __init__(self, resumed_text: str = "", resumed_tokens: tuple[int, ...] = (), num_starts: int = 1) -> None:
        self.attempt = 0
        self.num_chunks = 1
        self.resumed_text = resumed_text
        self.resumed_tokens = resumed_tokens
        self.workers: tuple[str, ...] = ("w0",) * (num_starts - 1)
        self.chunks: list[tuple[str, tuple[int, ...]]] = []
        self.thoughts: list[str] = []
        self.calls: tuple[CallDelta, ...] = ()
        self.progress: tuple[Progress, ...] = ()
        self.is_handed_back = False
        self.can_resume: bool | None = None
        self.grammar = ""
        self.num_prompt_tokens = 0
        self.error: Exception | None = None
        self._num_starts = num_starts

    async def start(
        self, model: str = "", *, grammar: str = "", can_resume: bool = True, num_prompt_tokens: int = 0
    ) -> Started:
        self.can_resume, self.grammar, self.num_prompt_tokens = can_resume, grammar, num_prompt_tokens
        return Started(0, self.attempt, WORKER, self._num_starts, model, grammar, num_prompt_tokens)

    async def hand_back(self) -> None:
        if self.error is not None:
            raise self.error
        self.is_handed_back = True

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
        if self.error is not None:
            raise self.error
        self.num_chunks += 1
        self.chunks.append((text, tokens))
        self.thoughts.append(reasoning)
        self.calls += calls
        self.progress += progress


def tell(work: Work, events: Iterable[Event]) -> None:
    """The engine's events reach their turn."""
    for event in events:
        work.events.put_nowait(event)


def is_done(end: object, reason: str) -> bool:
    """Whether an end is an answer that ended so."""
    return isinstance(end, Done) and end.finish_reason == reason


def is_failed(end: object, code: str) -> bool:
    """Whether an end is that failure."""
    return isinstance(end, Failed) and end.code == code
