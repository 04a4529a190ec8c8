"""`POST /embedding` and `/embeddings`: texts → vectors, in llama-server's own shape. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.embedding import Vectors
from broker.messages import Done
from producers.gateway.dialect import Asked
from producers.gateway.embedding import Given, VectorWriter, asked_to_embed, texts_of
from producers.gateway.errors import ApiError

EUCLIDEAN = 2
"""The one length that vectors are made to have 1 of."""


class EmbeddingBody(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Texts, by either name."""

    model: Annotated[str, Meta(max_length=256)] = ""
    input: Given | None = None
    content: Given | None = None
    embd_normalize: int | None = None

    is_streamed = False
    conversation = None

    @property
    def ignored(self) -> Sequence[str]:
        """Another length of vectors."""
        return ("embd_normalize",) if self.embd_normalize not in (None, EUCLIDEAN) else ()

    def check(self) -> None:
        """Raises ApiError where there is no text."""
        if self.input is None and self.content is None:
            raise ApiError(400, "input: it or content must be given", param="input")

    def asked(self) -> Sequence[Asked]:
        """The turns. Raises ApiError."""
        given, param = (self.content, "content") if self.input is None else (self.input, "input")
        assert given is not None
        return asked_to_embed(texts_of(given, param), param=param)

    def writer(self, turn: str, model: str) -> VectorWriter:
        """Of the answer."""
        return VectorWriter(model, self._told, param="content" if self.input is None else "input")

    def _told(self, model: str, vectors: Vectors, dones: Sequence[Done]) -> list[dict[str, Any]]:
        """A text's vectors are a list: of one, where they are pooled."""
        return [{"index": index, "embedding": [one.tolist()]} for index, one in enumerate(vectors)]
