"""What the engine and a matcher's process say to each other: frames, each with its length before it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAX_FRAME = 8 * 1024 * 1024
TRY, TAKE, LIST, GUESS = b"T", b"C", b"M", b"G"
"""Questions: may this token come next (then it does); this token comes next; which may come next? How many of these
may, one after the other? Behind the token of the first two come what is guessed to follow it, if anything is."""
ANSWER, ERROR, FORETOLD = b"A", b"E", b"F"
"""Kinds of answers. Behind the first come one byte of flags and, where tokens were asked for, a bit for each. The last
has one byte, how many of the guesses may come: to GUESS, and behind the answer to a token that was taken with some."""
READY = b"+"
"""Said once by the process that matchers are forked from, when it has the vocabulary."""
IS_ACCEPTING, IS_DONE = 1, 2
"""Flags: the text so far is whole; nothing may come next."""
HEAD_BYTES = 4
MAX_GUESS = 255
"""Tokens that are foretold of at once, at most."""
_LENGTH = struct.Struct("<I")
_TOKEN = struct.Struct("<i")


def framed(payload: bytes) -> bytes:
    """The payload with its length before it."""
    return _LENGTH.pack(len(payload)) + payload


def length_of(head: bytes) -> int:
    """The payload's length, of a frame's first HEAD_BYTES. Raises ValueError for one over MAX_FRAME."""
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME:
        raise ValueError(f"a frame of {length:,} bytes")
    return int(length)


def with_token(question: bytes, token: int) -> bytes:
    """A question about a token: TRY or TAKE."""
    return question + _TOKEN.pack(token)


def token_of(payload: bytes) -> int:
    """The token that a question is about."""
    return int(_TOKEN.unpack(payload[1:5])[0])


def with_guess(question: bytes, guess: Sequence[int]) -> bytes:
    """A question, GUESS or one about a token, with tokens that are guessed to follow: MAX_GUESS at most."""
    return question + b"".join(map(_TOKEN.pack, guess[:MAX_GUESS]))


def guess_of(payload: bytes) -> list[int]:
    """The tokens that are guessed to follow a question's."""
    begin = 1 if payload[:1] == GUESS else 1 + _TOKEN.size
    return [token for (token,) in _TOKEN.iter_unpack(payload[begin:])]
