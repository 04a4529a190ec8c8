"""`POST /api/embed` and the older `POST /api/embeddings`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.embedding import Vectors
from broker.messages import Done
from producers.gateway.dialect import Asked
from producers.gateway.embedding import VectorWriter, asked_to_embed
from producers.gateway.errors import ApiError
from producers.gateway.ollama.answers import nanoseconds
from producers.gateway.ollama.options import Options
from producers.gateway.ollama.requests import ModelName


class _Common(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What both have."""

    model: ModelName = ""
    keep_alive: float | str | None = None
    options: Options | None = None

    is_streamed = False
    conversation = None

    @property
    def ignored(self) -> list[str]:
        """What asks for something that is not done."""
        found = [] if self.options is None else self.options.ignored
        return [*found, *(["keep_alive"] if self.keep_alive is not None else [])]

    def check(self) -> None:
        """Raises ApiError for what is understood and must be refused."""
        if not self.model:
            raise ApiError(400, "model is required", param="model", code="missing_required_parameter")


class EmbedRequest(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Texts, of each a vector."""

    input: str | tuple[str, ...] | None = None
    truncate: bool | None = None
    """True without: of a text that is too long so much is taken as the model's context holds."""
    dimensions: Annotated[int, Meta(ge=0)] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Those to embed; an empty one alone is none."""
        if isinstance(self.input, str):
            return (self.input,) if self.input else ()
        return self.input or ()

    def asked(self) -> Sequence[Asked]:
        """The turns; none where there is no text. Raises ApiError."""
        if not self.texts:
            return ()
        return asked_to_embed(self.texts, truncate=self.truncate is not False, dimensions=self.dimensions or None)

    def writer(self, turn: str, model: str) -> VectorWriter:
        """Of the answer."""
        return VectorWriter(self.model, self._told)

    def _told(self, _: str, vectors: Vectors, dones: Sequence[Done]) -> dict[str, Any]:
        """The vectors, and what they took: turns of one request are computed beside each other."""
        waited = max((done.timings.queue_wait for done in dones), default=0.0)
        computed = sum(done.timings.prefill for done in dones)
        return {
            "model": self.model,
            "embeddings": [one.tolist() for one in vectors],
            "total_duration": nanoseconds(waited + computed),
            "load_duration": nanoseconds(waited),
            "prompt_eval_count": vectors.num_tokens,
        }


class EmbeddingsRequest(_Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One text, as earlier clients ask."""

    prompt: str = ""

    def asked(self) -> Sequence[Asked]:
        """The turn; none where there is no text."""
        return asked_to_embed((self.prompt,), truncate=True, param="prompt") if self.prompt else ()

    def writer(self, turn: str, model: str) -> VectorWriter:
        """Of the answer."""
        return VectorWriter(self.model, self._told, param="prompt")

    def _told(self, _: str, vectors: Vectors, dones: Sequence[Done]) -> dict[str, Any]:
        return {"embedding": vectors[0].tolist() if len(vectors) else []}
