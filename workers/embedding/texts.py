"""From a turn to what the engine computes, its texts' tokens: as many as the model takes and the wire carries back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from broker.errors import TurnRejected
from broker.messages import Embeddings, EmbedText, Turn
from workers.embedding.protocol import Embedder, Tokens

AROUND_BYTES = 4096
"""Of an end's room, for all but its vectors."""


class TextReader:
    """Of turns for one embedder. What the turn asks for and the model cannot is refused before anything is computed."""

    def __init__(self, embedder: Embedder, num_tokens: int, max_bytes: int) -> None:
        """`num_tokens` are those of the vocabulary, `max_bytes` those of the largest message."""
        self._embedder = embedder
        self._num_tokens = num_tokens
        self._max_bytes = max_bytes

    def tokens(self, turn: Turn) -> tuple[Tokens, ...]:
        """Of each text. Raises TurnRejected. Blocks for as long as it takes to tokenise a message."""
        if turn.kind != "embed":
            raise TurnRejected("unsupported", f"kind: the model makes vectors of texts: it cannot {turn.kind}")
        self._check_size(turn)
        return tuple(self._of(text, index, truncate=turn.truncate) for index, text in enumerate(turn.texts))

    def _check_size(self, turn: Turn) -> None:
        of_model = self._embedder.dimension
        if turn.dimensions is not None and turn.dimensions > of_model:
            raise TurnRejected("unsupported", f"dimensions: the model's vectors have {of_model}, not {turn.dimensions}")
        dimension = turn.dimensions or of_model
        most = max(1, (self._max_bytes - AROUND_BYTES) // (4 * dimension))
        if len(turn.texts) > most:
            detail = f"texts: {len(turn.texts)} vectors of {dimension} values, and an answer holds {most}"
            raise TurnRejected("answer_too_large", f"{detail}: send them as several turns")

    def _read(self, text: EmbedText) -> Tokens:
        """Of texts in a row the first has in front what the model wants there, if it is the first of all."""
        if isinstance(text, str):
            return self._embedder.tokens_of(text)
        found: list[int] = []
        for place, piece in enumerate(text):
            found += [piece] if isinstance(piece, int) else self._embedder.tokens_of(piece, is_bare=place > 0)
        return found

    def _of(self, text: EmbedText, index: int, *, truncate: bool) -> Tokens:
        tokens = self._read(text)
        if max(tokens, default=0) >= self._num_tokens:
            raise TurnRejected("invalid_message", f"texts[{index}]: {max(tokens)} is no token of the model's")
        if not tokens:
            raise TurnRejected("empty_prompt", f"texts[{index}]: it has no tokens, and the model adds none of its own")
        limit = self._embedder.max_text_tokens
        if len(tokens) <= limit:
            return tokens
        if not truncate:
            raise TurnRejected(
                "prompt_too_long", f"texts[{index}]: {len(tokens)} tokens, and the context holds {limit}"
            )
        return self._embedder.cut(tokens)


def embeddings(vectors: Sequence[bytes], dimension: int) -> Embeddings:
    """Of each packed vector the first `dimension` values, made of length 1; one without any length stays as it is."""
    values = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)[:, :dimension]
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return Embeddings(dimension, (values / np.where(lengths > 0, lengths, 1)).astype("<f4").tobytes())
