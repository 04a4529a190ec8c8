"""`POST /api/embed` and the older `POST /api/embeddings`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from producers.gateway.ollama.answers import nanoseconds
from producers.gateway.ollama.options import Options
from producers.gateway.ollama.requests import ModelName


class EmbedRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Texts, of each a vector."""

    model: ModelName = ""
    input: str | tuple[str, ...] | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Meta(ge=0)] | None = None
    keep_alive: float | str | None = None
    options: Options | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Those to embed; an empty one alone is none."""
        if isinstance(self.input, str):
            return (self.input,) if self.input else ()
        return self.input or ()


class EmbeddingsRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One text, as earlier clients ask."""

    model: ModelName = ""
    prompt: str = ""
    keep_alive: float | str | None = None
    options: Options | None = None


def embedded(
    model: str, vectors: Sequence[Sequence[float]], *, num_tokens: int, waited: float, computed: float
) -> dict[str, Any]:
    """The vectors, and what they took; durations in seconds."""
    return {
        "model": model,
        "embeddings": [list(one) for one in vectors],
        "total_duration": nanoseconds(waited + computed),
        "load_duration": nanoseconds(waited),
        "prompt_eval_count": num_tokens,
    }
