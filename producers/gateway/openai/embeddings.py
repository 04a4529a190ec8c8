"""`POST /v1/embeddings`. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from broker.embedding import Vectors
from broker.messages import Done, EmbedText
from broker.messages.turns import MAX_DIMENSIONS
from producers.gateway.dialect import Asked
from producers.gateway.embedding import VectorWriter, asked_to_embed
from producers.gateway.errors import ApiError

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Pieces = tuple[str | TokenId, ...]
"""Texts and tokens in a row."""


class TextPart(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a content."""

    type: Literal["text"]
    text: str


class TextObject(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text as llama-server takes it besides: by either name."""

    prompt_string: str | Pieces | None = None
    content: tuple[TextPart, ...] | None = None

    @property
    def text(self) -> EmbedText:
        """Parts are one text, as they stand."""
        if self.prompt_string is not None:
            return self.prompt_string
        return "".join(part.text for part in self.content or ())


Given = str | TextObject | tuple[str | TokenId | Pieces | TextObject, ...]
"""A text, or several: a list that has a token in it is one text."""


def texts_of(given: Given, param: str = "input") -> tuple[EmbedText, ...]:
    """Those to embed. Raises ApiError for an object that names none."""
    if isinstance(given, tuple) and not any(isinstance(one, int) for one in given):
        return tuple(_text(one, f"{param}[{index}]") for index, one in enumerate(given) if not isinstance(one, int))
    if isinstance(given, tuple):
        row = tuple(one for one in given if isinstance(one, int | str))
        if len(row) < len(given):
            raise ApiError(400, f"{param}: a list with tokens has only texts besides", param=param)
        return (row,)
    return (_text(given, param),)


def _text(given: str | Pieces | TextObject, param: str) -> EmbedText:
    if not isinstance(given, TextObject):
        return given
    if (given.prompt_string is None) == (given.content is None):
        raise ApiError(400, f"{param}: an object has a prompt_string or a content", param=param)
    return given.text


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
