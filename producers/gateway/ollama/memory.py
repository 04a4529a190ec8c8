"""`context`, the numbers by which Ollama's `/api/generate` remembers: what was said, packed into them. Pure.

To a client they are opaque, and it sends them back. Ollama's are the tokens of a prompt; ours hold the messages: no
gateway has to remember any, and any model can go on.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from broker.messages import Message
from producers.gateway.errors import ApiError

MAGIC = b"tpk1"
SIZE = 3
"""Bytes of a number: a number of JSON that any client keeps exact."""


def packed(messages: Sequence[Message]) -> list[int]:
    """The numbers that stand for what was said."""
    data = MAGIC + msgspec.msgpack.encode([(one.role, one.content) for one in messages])
    return [int.from_bytes(data[at : at + SIZE].ljust(SIZE, b"\xc1")) for at in range(0, len(data), SIZE)]


def unpacked(numbers: Sequence[int]) -> tuple[Message, ...]:
    """What was said. Raises ApiError for numbers that are not ours: the tokens of some other server."""
    try:
        data = b"".join(number.to_bytes(SIZE) for number in numbers)
        if not data.startswith(MAGIC):
            raise ValueError
        # Filling is a byte that begins nothing in msgpack.
        said = msgspec.msgpack.decode(data[len(MAGIC) :].rstrip(b"\xc1"), type=list[tuple[str, str]])
        return tuple(msgspec.convert({"role": role, "content": text}, Message) for role, text in said)
    except (ValueError, OverflowError, msgspec.MsgspecError):
        message = "context: these are no numbers of an answer from here: leave it out, or use /api/chat"
        raise ApiError(400, message, param="context", code="unsupported_parameter") from None
