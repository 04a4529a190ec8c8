"""`POST /v1/embeddings`. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from broker.embedding import Vectors
from broker.messages import Done
from broker.messages.turns import MAX_DIMENSIONS
from producers.gateway.dialect import Asked
from producers.gateway.embedding import Given, VectorWriter, asked_to_embed, texts_of


class EmbeddingsRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Texts, of each a vector."""

    model: Annotated[str, Meta(max_length=256)] = ""
    input: Given
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    """The first so many values, again of length 1: for models that were trained for that."""
    truncate: bool | None = None
    """Not in the API: of a text that is longer than the model's context take so much as it holds."""
    user: Annotated[str, Meta(max_length=512)] | None = None

    is_streamed = False
    conversation = None

    @property
    def ignored(self) -> Sequence[str]:
        """Vectors are of no conversation."""
        return ("user",) if self.user else ()

    def check(self) -> None:
        """Nothing that is understood must be refused."""

    def asked(self) -> Sequence[Asked]:
        """The turns. Raises ApiError."""
        return asked_to_embed(texts_of(self.input), truncate=bool(self.truncate), dimensions=self.dimensions)

    def writer(self, turn: str, model: str) -> VectorWriter:
        """Of the answer."""
        return VectorWriter(model, self._told)

    def _told(self, model: str, vectors: Vectors, dones: Sequence[Done]) -> dict[str, Any]:
        def value(index: int) -> object:
            if self.encoding_format == "base64":
                return base64.b64encode(vectors.packed(index)).decode()
            return vectors[index].tolist()

        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": value(index)} for index in range(len(vectors))
            ],
            "model": model,
            "usage": {"prompt_tokens": vectors.num_tokens, "total_tokens": vectors.num_tokens},
        }
