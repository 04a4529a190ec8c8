"""Ollama's `options`: those that say how tokens are chosen, and those of a server that loads models for its client.
Pure."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.messages import Sampling
from producers.gateway.errors import ApiError
from producers.gateway.ollama.errors import FIELDS
from producers.gateway.sampling import (
    Defaults,
    Penalty,
    RepeatPenalty,
    Share,
    Stop,
    Temperature,
    sampling_of,
)

DEFAULTS = Defaults(max_tokens=2048, temperature=0.8, top_k=40, top_p=0.9)
"""Ollama's own, but for the tokens: it would go on for ever; here an answer's are reserved of the context that all
turns share."""

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
    temperature: Temperature | None = None
    top_k: int | None = None
    top_p: Annotated[float, Meta(ge=0)] | None = None
    min_p: Share | None = None
    repeat_penalty: RepeatPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    stop: Stop | tuple[Stop, ...] | None = None

    def check(self) -> None:
        """Raises ApiError for what is understood and cannot be done."""
        if self.num_predict == 0:
            message = "options.num_predict: must be at least 1, or -1 for as many as the context holds"
            raise ApiError(400, message, param="options.num_predict")

    def sampling(self, **more: Any) -> Sampling:
        """How tokens are to be chosen. Raises ApiError."""
        return sampling_of(
            DEFAULTS,
            limit=self.num_predict,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            seed=None if self.seed is None or self.seed < 0 else self.seed,
            stop=self.stop,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            param_of=param_of,
            **more,
        )


def param_of(field: str) -> str:
    """The request's name of a turn's field."""
    return FIELDS.get(field) or field.replace("sampling.", "options.", 1)
