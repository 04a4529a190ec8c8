"""What a worker tells of a turn while it is answered, in the order of its indices."""

from __future__ import annotations

from msgspec import Struct

from broker.messages.fields import Count, Seconds, Token
from broker.messages.tools import CallDelta


class TokenLogprob(Struct, frozen=True):
    """The natural log-probability of a token before any cut or penalty, and of the likeliest ones there."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    piece: bytes = b""
    """What the token stands for: UTF-8, of which one token may hold a part of a character; empty for control tokens."""
    top_pieces: tuple[bytes, ...] = ()
    """Of the likeliest ones, in their order."""


class Progress(Struct, frozen=True):
    """How far a prompt is computed: `num_computed` of its tokens, those among them that were found in a cache."""

    num_prompt: Count
    num_cached: Count
    num_computed: Count
    seconds: Seconds
    """Since the turn was seated."""


class Started(Struct, frozen=True, tag_field="type", tag="started"):
    """A worker has seated the turn. A higher `attempt` than before means: drop the text so far."""

    index: Count
    attempt: Count
    worker: Token
    num_starts: Count = 1
    """How often this turn has been started without being handed back."""
    model: str = ""
    """A fingerprint of the model file: a worker with another one cannot go on where this one stopped."""
    grammar: str = ""
    """The same of the grammar that holds all of the answer; empty without one."""
    prompt_tokens: Count = 0
    """How many tokens the prompt has; 0 where the worker does not tell."""


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
    reasoning: str = ""
    """A piece of the model's thoughts, which come before the text of the same chunk."""
    reasoning_offset: Count = 0
    """How many characters of this attempt's thoughts come before."""
    calls: tuple[CallDelta, ...] = ()
    """What is added to calls, behind the text of the same chunk."""
    progress: tuple[Progress, ...] = ()
    """How far the prompt was computed before it, of a turn that asks for that."""


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
