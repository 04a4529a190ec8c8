"""What travels: turns, replies, ends, cancels, dead letters.

Frozen structs with typed, bounded fields. `broker.codec` is the only place where bytes become these, so a value of
one of these types has been checked.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from broker.errors import InvalidMessage

WIRE_VERSION = 1
MAX_GRAMMAR_BYTES = 64 * 1024
MAX_PART_BYTES = 512 * 1024
"""Of a KV state in one message: half of what the server lets pass."""

Role = Literal["system", "user", "assistant"]
Kind = Literal["generate", "score"]
FinishReason = Literal["stop", "length", "cancelled"]
Word = Annotated[str, Meta(min_length=1, max_length=64)]
"""One of a few values, of which a later release may know more: readers are prepared for those."""
Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]


def new_id() -> str:
    """A random 128-bit id in 32 hexadecimal digits."""
    return secrets.token_hex(16)


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Role
    content: str


class Sampling(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How tokens are chosen. The defaults are greedy: the most likely token each time."""

    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """0 is greedy; the cuts below then have no effect, the penalty has."""
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Keep the smallest set whose probability reaches p (Holtzman et al. 2020, arXiv 1904.09751)."""
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Keep tokens at least min_p times as likely as the likeliest (arXiv 2407.01082)."""
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """Divides positive, multiplies negative logits of the last 64 tokens (Keskar et al. 2019, arXiv 1909.05858)."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Token i is drawn with a hash of (seed, i): the same seed gives the same draws on any worker."""
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(max_length=16)] = ()
    """The answer ends before the first of these strings."""
    ignore_eos: bool = False
    """Go on to max_tokens: the model's end tokens are never chosen. For benchmarks."""
    grammar: Annotated[str, Meta(min_length=1, max_length=MAX_GRAMMAR_BYTES)] | None = None
    """A GBNF grammar with a rule `root` that the answer must match."""
    json_schema: dict[str, Any] | None = None
    """A JSON schema that the answer must match; not together with `grammar`."""
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Return each token's log-probability and those of the n most likely ones."""

    def __post_init__(self) -> None:
        if self.grammar is not None and self.json_schema is not None:
            raise InvalidMessage("sampling.grammar", "grammar and json_schema cannot both be given")


class Turn(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One user message with its whole history."""

    id: Token
    conversation: Token
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    deadline: Seconds | None = None
    """Seconds since the epoch, by the producer's wall clock; the turn ends as failed(deadline) after it."""
    kind: Kind = "generate"
    continuations: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    """For `score`: the texts whose log-probability as the answer is asked for."""
    run: Token | None = None
    """The load run that it belongs to: a tag in telemetry."""
    raw: bool = False
    """The one message is the prompt as it stands, without the model's chat template: for evaluations."""

    def __post_init__(self) -> None:
        if not self.messages:
            raise InvalidMessage("messages", "must hold at least one message")
        if self.raw and len(self.messages) != 1:
            raise InvalidMessage("raw", "a raw prompt is one message")
        if self.messages[-1].role != "user":
            raise InvalidMessage(f"messages[{len(self.messages) - 1}].role", "the last message must be the user's")
        if (self.kind == "score") != bool(self.continuations):
            raise InvalidMessage("continuations", "must be given for kind 'score', and only then")
        if not all(self.continuations):
            raise InvalidMessage("continuations", "must not be empty texts")


class TokenLogprob(Struct, frozen=True):
    """The natural log-probability of a token before any cut or penalty, and of the likeliest ones there."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    piece: bytes = b""
    """What the token stands for: UTF-8, of which one token may hold a part of a character; empty for control tokens."""
    top_pieces: tuple[bytes, ...] = ()
    """Of the likeliest ones, in their order."""


class Started(Struct, frozen=True, tag_field="type", tag="started"):
    """A worker has seated the turn. A higher `attempt` than before means: drop the text so far."""

    index: Count
    attempt: Count
    worker: Token
    num_starts: Count = 1
    """How often this turn has been started without being handed back."""
    model: str = ""
    """A fingerprint of the model file: a worker with another one cannot go on where this one stopped."""


class Chunk(Struct, frozen=True, tag_field="type", tag="chunk", omit_defaults=True):
    """A piece of the answer. `tokens` are all ids so far not sent, also of text that is still held back."""

    index: Count
    attempt: Count
    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    text_offset: Count = 0
    """How many characters of this attempt's text come before."""
    token_offset: Count = 0
    """How many of its tokens come before."""


class HandedBack(Struct, frozen=True, tag_field="type", tag="handed_back"):
    """The worker gave the turn back before its end, of its own will: this start is no crash."""

    index: Count
    attempt: Count


Reply = Started | Chunk | HandedBack


class Other(Struct, frozen=True):
    """A message of a reply that is not understood, as a later release wrote it: what is known of it is its place."""

    type: str
    index: Count
    attempt: Count = 0


class ReplayRequest(Struct, frozen=True):
    """A reader wants the stored replies of its turn again, from this index on."""

    index: Count = 0


class Replay(Struct, frozen=True):
    """Stored replies, as their payloads were; `is_whole` unless more follow, which did not fit into one message."""

    messages: tuple[bytes, ...]
    is_whole: bool


CachedIn = Literal["context", "ram", "disk", "peer"]
"""Where a worker found a conversation's state."""
RecomputedFor = Literal["evicted", "killed", "fingerprint", "overflow", "cheaper"]
"""Why a state was not to be had: the caps had no room for it, its worker is gone, it is another model file's or another
layout's, older turns were left out before it, or computing it was quicker than fetching it."""


class Usage(Struct, frozen=True, omit_defaults=True):
    """Token counts. `cached_tokens` of the `prompt_tokens` were not computed again."""

    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count
    cached_in: Word | None = None
    """Where the cached tokens were, CachedIn or a later release's; absent where there were none."""
    recomputed_tokens: Count = 0
    """Of those that are not cached, the ones that had been computed before, and why it was done again."""
    recomputed_for: Word | None = None
    """RecomputedFor, or a later release's."""
    dropped_messages: Count = 0
    """Of the history's beginning, left out as the context would not hold them."""


class Timings(Struct, frozen=True):
    """Seconds, by the worker's monotonic clock but for the queue wait, which spans two machines' wall clocks."""

    queue_wait: Seconds
    prefill: Seconds
    decode: Seconds
    cancel: Seconds = 0.0
    """From hearing a cancel to the slot that it freed."""
    fetch: Seconds = 0.0
    """For the conversation's state to come from another worker; 0 where none came."""


class Score(Struct, frozen=True):
    """The sum of a continuation's token log-probabilities, and whether greedy decoding would have produced it."""

    logprob: float
    num_tokens: Count
    is_greedy: bool
    start: Count = 0
    """How many tokens come before the continuation's first, in the two tokenised as one text."""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Of each of the tokens."""


class Done(Struct, frozen=True, tag_field="type", tag="done", omit_defaults=True):
    """The end of a turn that was answered, with the whole answer."""

    finish_reason: Word
    """FinishReason, or a later release's."""
    text: str
    tokens: tuple[int, ...]
    usage: Usage
    timings: Timings
    worker: Token
    attempt: Count = 0
    num_chunks: Count = 0
    """How many reply messages (`started` and chunks) there are: their indices are 0 … num_chunks − 1."""
    scores: tuple[Score, ...] = ()


class Failed(Struct, frozen=True, tag_field="type", tag="failed", omit_defaults=True):
    """The end of a turn that was not answered. docs/protocol.md lists the codes."""

    code: str
    detail: str
    retryable: bool = False
    worker: Token | None = None
    attempt: Count = 0
    retry_after: Seconds | None = None
    """When asking again may be worth while, in seconds from now."""


End = Done | Failed

NOT_UNDERSTOOD = "not_understood"
"""The code of a failure that a reader makes: the answer's end, or its wire version, is not one that it knows."""


class Cancel(Struct, frozen=True, omit_defaults=True):
    """Stop a turn, a conversation or all of a client's: which, the subject says."""

    sequence: Count | None = None
    """The turn's stream sequence from its publish's acknowledgement, with which a queued one is deleted."""
    model: Token | None = None
    sent_at: Seconds | None = None
    reason: Word = "cancelled"
    """Or `deadline`: a turn that is stopped at its deadline ends as `failed`. Whatever the reason, it is stopped."""


class DeadLetter(Struct, frozen=True):
    """A turn given up on, with its original bytes."""

    subject: str
    reason: str
    attempts: Count
    payload: bytes
    content_type: str | None = None
    workers: tuple[str, ...] = ()
    """Who began the turn, in order."""
    rest: Count = 0
    """Where the rest of the payload lies, for one that has no room beside the other fields: the sequence of a message
    of the same stream, which is that rest and nothing else."""


class Beacon(Struct, frozen=True):
    """How far a model's consumer has come: what "about the n-th in line" is computed from."""

    sequence: Count
    pending: Count


class Leaving(Struct, frozen=True):
    """A worker takes itself out: it finishes what it has, and takes no more turns."""

    worker: Token


class Holding(Struct, frozen=True):
    """An entry of the directory: this worker has a conversation's state."""

    worker: Token
    fingerprint: str
    """Of the model file and of all that decides how a state is laid out: only an equal one can be used."""
    num_tokens: Count
    num_bytes: Count


class FetchOpen(Struct, frozen=True, tag_field="type", tag="open"):
    """A worker wants a conversation's state."""

    client: Token
    conversation: Token


class FetchPart(Struct, frozen=True, tag_field="type", tag="part"):
    """A part of an opened state."""

    transfer: Token
    offset: Count
    size: Annotated[int, Meta(ge=1, le=MAX_PART_BYTES)]


class FetchClose(Struct, frozen=True, tag_field="type", tag="close"):
    """No more of it is wanted."""

    transfer: Token


FetchRequest = FetchOpen | FetchPart | FetchClose


class Remembered(Struct, frozen=True):
    """What a worker remembers of a conversation, so that its tokens are never made from its text again."""

    messages: tuple[Message, ...]
    prompt_text: str
    """Of the last turn, as the template told it."""
    tokens: bytes
    """Those of prompt and answer, four bytes each, little-endian."""


class Opened(Struct, frozen=True, tag_field="type", tag="opened"):
    """A state that is held for its reader until it is closed or was not read for a while."""

    transfer: Token
    fingerprint: str
    tokens: bytes
    """Whose state it is, as in `Remembered`."""
    num_bytes: Count
    num_canonical: Count
    sha256: str
    """Of tokens and state."""
    remembered: Remembered | None = None


class StatePart(Struct, frozen=True, tag_field="type", tag="part"):
    """Bytes of a state."""

    offset: Count
    data: bytes


class FetchRefused(Struct, frozen=True, tag_field="type", tag="refused"):
    """`gone`: it is not here any more. `busy`: enough others are reading. `not_understood`: the request is not."""

    reason: Word


FieldValue = float | int | bool | str


class Point(Struct, frozen=True, array_like=True):
    """One point of a time series. `broker.points` says which measurements, tags and fields there are."""

    measurement: Annotated[str, Meta(min_length=1, max_length=64)]
    tags: Annotated[dict[str, Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=16)]
    fields: Annotated[dict[str, FieldValue], Meta(min_length=1, max_length=64)]
    time: int
    """Nanoseconds since the epoch."""


MAX_BATCH_POINTS = 5000


class Points(Struct, frozen=True):
    """What a worker or sidecar measured within about a second."""

    points: Annotated[tuple[Point, ...], Meta(max_length=MAX_BATCH_POINTS)]


class NodeState(Struct, frozen=True):
    """How a node is just now, from its sidecar to its workers. What its board does not tell is None."""

    watts: Annotated[float, Meta(ge=0, le=100_000)] | None = None
    is_estimated: bool = False
    celsius: Annotated[float, Meta(ge=-273.15, le=1000)] | None = None
    """The hottest sensor's."""
    is_throttled: bool | None = None


class RunEvent(Struct, frozen=True):
    """A load run began or ended: for annotations in Grafana."""

    run: Token
    kind: Word
    """`run began`, `run ended`, or a later release's."""
    at: int
    """Nanoseconds since the epoch, by the producer's clock."""
    text: Annotated[str, Meta(max_length=2000)] = ""
