"""How a turn ends: answered, or failed; with what it has cost."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from broker.errors import InvalidMessage
from broker.messages.fields import Count, Seconds, Token, Word
from broker.messages.tools import ToolCall

FinishReason = Literal["stop", "length", "cancelled"]
"""Why the engine stopped. An answer's is besides `tool_calls`, where it ended with calls."""

CachedIn = Literal["context", "ram", "board", "disk", "peer"]
"""Where a worker found a conversation's state; `board`: its board kept it while another model was loaded."""
RecomputedFor = Literal["evicted", "killed", "swapped", "fingerprint", "overflow", "cheaper"]
"""Why a state was not to be had: the caps had no room for it, its worker is gone, its worker made room for another
model, it is another model file's or another layout's, older turns were left out before it, or computing it was quicker
than fetching it."""


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
    reasoning_tokens: Count = 0
    """Of the completion's, those of the thoughts."""
    broken_calls: Count = 0
    """How many calls of tools came as text: cut off, of an unknown tool, not as calls are written."""
    drafted_tokens: Count = 0
    """Guesses at the completion's tokens that were computed, …"""
    accepted_tokens: Count = 0
    """… and those of them that the completion has: the others were in vain."""


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


class Embeddings(Struct, frozen=True):
    """The vectors of a turn's texts, in their order, each of length 1."""

    dimension: Annotated[int, Meta(ge=1)]
    """Values of each."""
    data: bytes
    """All of them, packed: float32, the least byte first."""

    def __post_init__(self) -> None:
        if len(self.data) % (4 * self.dimension):
            raise InvalidMessage("embeddings.data", f"{len(self.data)} bytes are no vectors of {self.dimension} values")


class Done(Struct, frozen=True, tag_field="type", tag="done", omit_defaults=True):
    """The end of a turn that was answered, with the whole answer."""

    finish_reason: Word
    """FinishReason, `tool_calls`, or a later release's."""
    text: str
    """Without thoughts and calls."""
    tokens: tuple[int, ...]
    usage: Usage
    timings: Timings
    worker: Token
    attempt: Count = 0
    num_chunks: Count = 0
    """How many reply messages (`started` and chunks) there are: their indices are 0 … num_chunks − 1."""
    scores: tuple[Score, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    """What the answer calls, in its order."""
    reasoning: str = ""
    """What the model thought before it answered."""
    embeddings: Embeddings | None = None
    """Of a turn that was to `embed`, unless it was cancelled."""
    pieces: tuple[bytes, ...] = ()
    """Of the kind `prompt`: what each of the tokens is written with, control tokens too."""
    stop: str | None = None
    """Of the turn's stop texts, the one that ended the answer; the text ends before it."""


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
