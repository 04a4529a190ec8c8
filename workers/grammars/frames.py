"""What the engine and a matcher's process say to each other: frames, each with its length before it."""

from __future__ import annotations

import struct

MAX_FRAME = 8 * 1024 * 1024
TRY, TAKE, LIST = b"T", b"C", b"M"
"""Questions: may this token come next (then it does); this token comes next; which may come next?"""
ANSWER, ERROR = b"A", b"E"
"""Kinds of answers. Behind the first come one byte of flags and, where tokens were asked for, a bit for each."""
READY = b"+"
"""Said once by the process that matchers are forked from, when it has the vocabulary."""
IS_ACCEPTING, IS_DONE = 1, 2
"""Flags: the text so far is whole; nothing may come next."""
HEAD_BYTES = 4
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
