"""Of llama.cpp as it is: its flash attention on a CPU has two speeds, and a small prefill may be filled up to the
quicker one. A build with grouped attention (docs/upstream.md) has one speed."""

from __future__ import annotations

from workers.engine.protocol import Span

FLASH_TILE = 64
"""So many tokens or more are computed by matrix, fewer one by one: 4 times slower a token."""
TILE_CONTEXT = 256
"""A token by itself costs what one in a tile costs, and as much again for every so many tokens before it (measured)."""


def padding_of(spans: list[Span], num_tokens: int) -> int:
    """How many tokens of no meaning make a step of `num_tokens` a whole tile; 0 where that is not the quicker way."""
    is_decode = len(spans[-1].tokens) == 1
    if is_decode or num_tokens >= FLASH_TILE:
        return 0
    one_by_one = sum(len(span.tokens) * (1 + span.start / TILE_CONTEXT) for span in spans)
    return FLASH_TILE - num_tokens if one_by_one >= FLASH_TILE else 0
