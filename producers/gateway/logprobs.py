"""A token's log-probability as OpenAI's APIs and Ollama's tell it. Pure."""

from __future__ import annotations

from typing import Any

from broker.messages import TokenLogprob


def logprob_of(token: TokenLogprob) -> dict[str, Any]:
    """A token's, with those of the likeliest tokens there."""
    top = zip(token.top, token.top_pieces, strict=False)
    return _one(token.piece, token.logprob) | {"top_logprobs": [_one(piece, logprob) for (_, logprob), piece in top]}


def _one(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}
