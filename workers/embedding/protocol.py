"""What makes vectors: the engine's contract, so that a worker runs in tests without llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Tokens = Sequence[int]
"""Of a text, with what the model has put around it."""


class Embedder(Protocol):
    """Belongs to one thread at a time, but for `tokens_of`, which is anybody's. `LlamaEmbedder` is one."""

    dimension: int
    """Values of a vector."""
    max_text_tokens: int
    """Of the longest text."""
    max_batch_tokens: int
    """Of one step, unless one text alone has more."""
    max_batch_texts: int
    """Of one step."""

    def tokens_of(self, text: str, *, is_bare: bool = False) -> list[int]:
        """Of a text, with what the model wants around it; a bare one's without."""
        ...

    def cut(self, tokens: Tokens) -> Tokens:
        """As many of a text's tokens as the model takes; what ends a text ends it still."""
        ...

    def embed(self, batch: Sequence[Tokens], num_threads: int) -> list[bytes]:
        """The vector of each text, packed: float32, the least byte first, of any length. Raises EngineLost."""
        ...
