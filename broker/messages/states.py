"""How workers give each other a conversation's KV state: the directory's entry, and a fetch in parts."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from broker.messages.fields import Count, Token, Word
from broker.messages.turns import Message

MAX_PART_BYTES = 512 * 1024
"""Of a KV state in one message: half of what the server lets pass."""
MAX_CUTS = 16
"""That a state may be said to have."""


class Holding(Struct, frozen=True, omit_defaults=True):
    """An entry of the directory: this worker has a conversation's state."""

    worker: Token
    fingerprint: str
    """Of the model file and of all that decides how a state is laid out: only an equal one can be used."""
    num_tokens: Count
    num_bytes: Count
    conversation: Token | None = None
    """Whose state it is, where the entry is not a conversation's own but one of what conversations begin with."""
    is_swapped: bool = False
    """Its worker made room for another model: what is not to be had of it any more is missing because of that."""


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


class Earlier(Struct, frozen=True):
    """How much of a conversation there was at an earlier answer's end: messages, text of the prompt, tokens."""

    num_messages: Count
    num_characters: Count
    num_tokens: Count


class Written(Struct, frozen=True):
    """An answer as the model wrote it: with its thoughts, its calls, and the marks of both."""

    text: str
    tokens: bytes
    """As in `Remembered`, of the answer alone."""
    num_before: Count
    """The prompt's tokens, which come before."""


class Remembered(Struct, frozen=True, omit_defaults=True):
    """What a worker remembers of a conversation, so that its tokens are never made from its text again."""

    messages: tuple[Message, ...]
    prompt_text: str
    """Of the last turn, as the template told it."""
    tokens: bytes
    """Those of prompt and answer, four bytes each, little-endian."""
    given_besides: str = field(default="", name="template_kwargs")
    """What the template was given besides the messages, as one text: with another it is another prompt. Variables as
    JSON with sorted names, and a hash of the tools."""
    num_told_anew: int | None = None
    """Of the messages, those that stand in it as the template tells history; answers behind them stand there as they
    were generated, with the white space around them. Older releases do not tell it: then only the last one does."""
    before: Earlier | None = None
    """At the end of the answer before: what is asked again, or edited, goes on from there."""
    written: Written | None = None
    """The last answer, where it is more than its text."""


class CutPoint(Struct, frozen=True):
    """Where a state can be cut that is not of a kind that can be cut anywhere: behind so many of its first tokens, by a
    checkpoint of so many bytes."""

    num_tokens: Annotated[int, Meta(ge=1)]
    num_bytes: Annotated[int, Meta(ge=1)]


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
    cuts: Annotated[tuple[CutPoint, ...], Meta(max_length=MAX_CUTS)] = ()
    """In order of position. Their bytes follow the state's, in that order, for who asks for them."""
    cuts_sha256: str = ""
    """Of those bytes."""


class StatePart(Struct, frozen=True, tag_field="type", tag="part"):
    """Bytes of a state."""

    offset: Count
    data: bytes


class FetchRefused(Struct, frozen=True, tag_field="type", tag="refused"):
    """`gone`: it is not here any more. `busy`: enough others are reading. `not_understood`: the request is not."""

    reason: Word
