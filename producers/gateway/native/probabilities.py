"""The probabilities of tokens as llama-server tells them, a token an event. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from broker.messages import Chunk, TokenLogprob


def probability(one: TokenLogprob) -> dict[str, Any]:
    """Of a token, and of the likeliest there."""
    top = zip(one.top, one.top_pieces, strict=False)
    return _of(one.token, one.piece, one.logprob) | {
        "top_logprobs": [_of(token, piece, logprob) for (token, logprob), piece in top]
    }


def by_token(chunk: Chunk) -> Iterator[Chunk]:
    """The chunk itself; where it tells of several tokens' probabilities, a chunk of each, and the text of what is a
    part of a character only behind it."""
    if len(chunk.logprobs) <= 1 or len(chunk.logprobs) != len(chunk.tokens):
        yield chunk
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = chunk.text
    for place, (token, one) in enumerate(zip(chunk.tokens, chunk.logprobs, strict=True)):
        text = decoder.decode(one.piece)
        is_last = place == len(chunk.tokens) - 1
        text = rest if is_last else text if rest.startswith(text) else ""
        rest = rest[len(text) :]
        yield replace(chunk, text=text, tokens=(token,), logprobs=(one,))


def _of(token: int, piece: bytes, logprob: float) -> dict[str, Any]:
    return {"id": token, "token": piece.decode(errors="replace"), "bytes": [*piece], "logprob": logprob}
