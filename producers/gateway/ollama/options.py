"""Ollama's `options`: those that say how tokens are chosen, and those of a server that loads models for its client.
Pure."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.messages import Sampling
from producers.gateway.errors import ApiError

MAX_TOKENS = 2048
"""Where nobody says how many. Ollama would go on for ever; here an answer's tokens are reserved of the context that all
turns share."""
MOST_TOKENS = 1_000_000
MAX_STOPS = 16
TEMPERATURE, TOP_K, TOP_P = 0.8, 40, 0.9
"""Ollama's own defaults."""

Stop = Annotated[str, Meta(max_length=256)]
"""An empty one stops nothing."""

ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "num_keep": (0, 4, -1),
    "typical_p": (1,),
    "tfs_z": (1,),
    "repeat_last_n": (64,),
    "mirostat": (0,),
    "numa": (False,),
    "low_vram": (False,),
    "f16_kv": (True,),
    "vocab_only": (False,),
    "logits_all": (False,),
    "embedding_only": (False,),
    "penalize_newline": (True,),
}
"""Values of what is not done that ask for nothing: there are clients that send all of Ollama's defaults."""


class NotDone(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What Ollama's clients know of, and is the worker's own business here, or not to be had."""

    num_ctx: Any = None
    num_keep: Any = None
    num_batch: Any = None
    num_gpu: Any = None
    main_gpu: Any = None
    num_thread: Any = None
    draft_num_predict: Any = None
    numa: Any = None
    use_mmap: Any = None
    use_mlock: Any = None
    low_vram: Any = None
    f16_kv: Any = None
    vocab_only: Any = None
    logits_all: Any = None
    embedding_only: Any = None
    typical_p: Any = None
    tfs_z: Any = None
    repeat_last_n: Any = None
    mirostat: Any = None
    mirostat_tau: Any = None
    mirostat_eta: Any = None
    penalize_newline: Any = None

    @property
    def ignored(self) -> list[str]:
        """The names of those that ask for something."""
        asked = {name: getattr(self, name) for name in NotDone.__struct_fields__}
        return [
            f"options.{name}"
            for name, value in asked.items()
            if value is not None and value not in ASKS_FOR_NOTHING.get(name, ())
        ]


class Options(NotDone, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How tokens are chosen, and how many."""

    num_predict: Annotated[int, Meta(ge=-2)] | None = None
    """-1 and -2: as many as the context holds."""
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_k: int | None = None
    top_p: Annotated[float, Meta(ge=0)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-100, le=100)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-100, le=100)] | None = None
    seed: int | None = None
    stop: Stop | tuple[Stop, ...] | None = None

    def check(self) -> None:
        """Raises ApiError for what is understood and cannot be done."""
        if self.num_predict == 0:
            message = "options.num_predict: must be at least 1, or -1 for as many as the context holds"
            raise ApiError(400, message, param="options.num_predict")
        if len(self.stops) > MAX_STOPS:
            raise ApiError(400, f"options.stop: must have at most {MAX_STOPS} entries", param="options.stop")

    @property
    def limit(self) -> int:
        """Of the answer's tokens."""
        if self.num_predict is None:
            return MAX_TOKENS
        return MOST_TOKENS if self.num_predict < 0 else min(self.num_predict, MOST_TOKENS)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        found = (self.stop,) if isinstance(self.stop, str) else self.stop or ()
        return tuple(one for one in found if one)

    def sampling(self, **more: Any) -> Sampling:
        """How tokens are to be chosen, with Ollama's defaults for what is not said."""
        top_p = TOP_P if self.top_p is None else min(self.top_p, 1.0)
        top_k = TOP_K if self.top_k is None else min(max(0, self.top_k), MOST_TOKENS)
        temperature = TEMPERATURE if self.temperature is None else self.temperature
        seed = self.seed if self.seed is not None and self.seed >= 0 else secrets.randbits(62)
        return Sampling(
            max_tokens=self.limit,
            temperature=temperature,
            # No share of the probability at all is the likeliest token alone.
            top_k=1 if top_p == 0 else top_k,
            top_p=top_p or 1.0,
            min_p=self.min_p or 0.0,
            repeat_penalty=1.0 if self.repeat_penalty is None else self.repeat_penalty,
            seed=seed % 2**63,
            stop=self.stops,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            **more,
        )
