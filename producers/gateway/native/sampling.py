"""How llama-server's requests say how tokens are to be chosen, and how its answers say it again. Pure.

The defaults are llama-server's. What its other samplers would do is not done: a value that asks for it is named in
`Turnpike-Ignored`, and answers tell the value at which it does nothing.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.messages import Sampling
from broker.messages.turns import FORBIDDEN
from producers.gateway.biases import LogitBias, biases_of
from producers.gateway.bodies import ANY_VALUE, Harmless
from producers.gateway.sampling import MAX_TOP_LOGPROBS, Defaults, sampling_of

UNSIGNED = 2**32
"""llama-server's seeds are 32 bits."""

DEFAULTS = Defaults(max_tokens=-1, temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
"""llama-server's own."""
OFF: dict[str, Any] = {
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 64,
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "adaptive_target": -1.0,
    "adaptive_decay": 0.9,
    "n_keep": 0,
    "n_discard": 0,
    "min_keep": 0,
    "grammar_lazy": False,
    "grammar_triggers": [],
    "preserved_tokens": [],
    "backend_sampling": False,
    "lora": [],
}
"""What answers tell of samplers and of contexts that shift: as it is where they are off."""
HARMLESS: Mapping[str, Harmless] = {name: (value,) for name, value in OFF.items()} | {
    "adaptive_decay": ANY_VALUE,
    "cache_prompt": (True,),
    "dry_allowed_length": ANY_VALUE,
    "dry_base": ANY_VALUE,
    "dry_penalty_last_n": ANY_VALUE,
    "dry_sequence_breakers": ANY_VALUE,
    "dynatemp_exponent": ANY_VALUE,
    "id_slot": (-1,),
    "mirostat_eta": ANY_VALUE,
    "mirostat_tau": ANY_VALUE,
    "n_cache_reuse": (0,),
    "n_discard": ANY_VALUE,
    "n_indent": (0,),
    "samplers": ANY_VALUE,
    "sse_ping_interval": ANY_VALUE,
    "t_max_predict_ms": (0, -1),
    "xtc_threshold": ANY_VALUE,
}
"""Values of what is not done that ask for nothing, so that they are not named."""
SAMPLERS = ["penalties", "top_k", "top_p", "min_p", "temperature"]
"""Those that there are, in their order."""


class Chosen(Struct, frozen=True, dict=True, forbid_unknown_fields=True, kw_only=True):
    """The part of a body that says it."""

    n_predict: Annotated[int, Meta(ge=-1)] | None = None
    max_tokens: Annotated[int, Meta(ge=-1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=-1)] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: LogitBias | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    n_probs: Annotated[int, Meta(ge=0)] | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    post_sampling_probs: bool | None = None

    @property
    def num_probs(self) -> int:
        """How many of the likeliest tokens are told with each; 0 without."""
        return self.logprobs or 0 if self.n_probs is None else self.n_probs

    @property
    def limit(self) -> int:
        """Of the answer's tokens; -1 is as many as the context holds."""
        given = (self.n_predict, self.max_completion_tokens, self.max_tokens)
        return next((one for one in given if one is not None), -1)

    @functools.cached_property
    def sampling(self) -> Sampling:
        """That of the first answer, always the same, as a random seed is told with the answer. Raises ApiError."""
        seed = self.seed % UNSIGNED if self.seed is not None and self.seed >= 0 else secrets.randbits(31)
        return sampling_of(
            DEFAULTS,
            limit=self.limit,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            seed=seed,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=biases_of(self.logit_bias),
            stop=self.stop,
            ignore_eos=bool(self.ignore_eos),
            grammar=self.grammar or None,
            json_schema=(self.json_schema or {"type": "object"}) if self._is_by_schema else None,
            logprobs=min(self.num_probs, MAX_TOP_LOGPROBS) or None,
        )

    @property
    def _is_by_schema(self) -> bool:
        """A grammar beside a schema is the one that counts, as in llama-server."""
        return self.json_schema is not None and not self.grammar


def settings_of(sampling: Sampling, *, is_streamed: bool, limit: int, more: dict[str, Any]) -> dict[str, Any]:
    """`generation_settings` of an answer."""
    grammar = sampling.grammar or ""
    found = OFF | {
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": [*sampling.stop],
        "max_tokens": limit,
        "n_predict": limit,
        "ignore_eos": sampling.ignore_eos,
        "stream": is_streamed,
        "logit_bias": [{"token": of, "bias": bias if bias > FORBIDDEN else None} for of, bias in sampling.logit_bias],
        "n_probs": sampling.logprobs or 0,
        "grammar": grammar,
        "json_schema": sampling.json_schema,
        "samplers": SAMPLERS,
    }
    return found | more
