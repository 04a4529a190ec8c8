"""How a token is chosen from logits: llama.cpp's samplers, one chain a sequence, one seed a token."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from broker.errors import TurnRejected
from broker.messages import Sampling
from workers.llama.vocabulary import LlamaVocabulary

Logits = NDArray[np.float32]
_MASK = (1 << 64) - 1
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
PENALTY_TOKENS = 64
MAX_GRAMMAR_SECONDS = 2.0
"""Of one token. A grammar may be small, compile at once and still explode while it is followed."""


def seed_of(seed: int, index: int) -> int:
    """The 32-bit seed of an answer's token `index`: SplitMix64 (Steele et al. 2014) of the turn's seed and the index.

    It depends on nothing else, so that a turn that is resumed elsewhere draws what it would have drawn.
    """
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) & 0xFFFFFFFF


class LlamaSampler:
    """Chooses one sequence's tokens. Greedy without penalty or grammar is an argmax and nothing else."""

    def __init__(
        self,
        vocabulary: LlamaVocabulary,
        logits: Callable[[int], Logits],
        sampling: Sampling,
        prompt: list[int],
        gbnf: str | None,
    ) -> None:
        self._vocabulary = vocabulary
        self._logits = logits
        self._sampling = sampling
        self._masked = np.array(sorted(vocabulary.end_tokens), dtype=np.int64) if sampling.ignore_eos else None
        self._chain: Any = None
        self._penalties: Any = None
        self._grammar: Any = None
        self._candidates: NDArray[Any] | None = None
        is_plain = sampling.temperature == 0 and sampling.repeat_penalty == 1 and gbnf is None
        if is_plain:
            return
        self._candidates = np.zeros(vocabulary.num_tokens, dtype=_CANDIDATE)
        if sampling.repeat_penalty != 1:
            self._penalties = lib.llama_sampler_init_penalties(
                vocabulary.num_tokens, PENALTY_TOKENS, sampling.repeat_penalty, 0.0, 0.0
            )
            for token in prompt[-PENALTY_TOKENS:]:
                lib.llama_sampler_accept(self._penalties, token)
        if sampling.temperature > 0:
            self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
            # Cuts on the model's own probabilities first, then the temperature: llama.cpp's default order.
            for part in self._cuts(sampling):
                lib.llama_sampler_chain_add(self._chain, part)
        if gbnf is not None:
            self._grammar = lib.llama_sampler_init_grammar(vocabulary.pointer, gbnf.encode(), b"root")
            if not self._grammar:
                self.close()
                raise TurnRejected("invalid_grammar", "sampling.grammar: llama.cpp does not accept it")

    @staticmethod
    def _cuts(sampling: Sampling) -> list[Any]:
        parts = []
        if sampling.top_k:
            parts.append(lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            parts.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p:
            parts.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        parts.append(lib.llama_sampler_init_temp(sampling.temperature))
        return parts

    def sample(self, row: int, index: int) -> int:
        logits = self._logits(row)
        if self._masked is not None:
            logits[self._masked] = -np.inf
        if self._candidates is None:
            return int(logits.argmax())
        token = self._choose(logits, index, with_grammar=False)
        if self._grammar is not None:
            started = time.perf_counter()
            # The grammar is asked about the token that would be chosen; only when it objects, about all of them.
            if not self._allows(token, logits):
                token = self._choose(logits, index, with_grammar=True)
            if token >= 0:
                lib.llama_sampler_accept(self._grammar, token)
            if time.perf_counter() - started > MAX_GRAMMAR_SECONDS:
                raise TurnRejected("invalid_grammar", "sampling.grammar: takes seconds for one token")
        if self._penalties is not None and token >= 0:
            lib.llama_sampler_accept(self._penalties, token)
        return token

    def _allows(self, token: int, logits: Logits) -> bool:
        one = np.array([(token, logits[token], 0.0)], dtype=_CANDIDATE)
        lib.llama_sampler_apply(self._grammar, ctypes.byref(_array(one)))
        return bool(np.isfinite(one["logit"][0]))

    def _choose(self, logits: Logits, index: int, *, with_grammar: bool) -> int:
        candidates = self._candidates
        assert candidates is not None
        # Cuts reorder the array, so the ids are written anew as well.
        candidates["id"] = np.arange(len(candidates), dtype=np.int32)
        candidates["logit"] = logits
        array = _array(candidates)
        if self._penalties is not None:
            lib.llama_sampler_apply(self._penalties, ctypes.byref(array))
        if with_grammar:
            lib.llama_sampler_apply(self._grammar, ctypes.byref(array))
        if self._chain is None:
            best = int(candidates["logit"].argmax())
            return int(candidates["id"][best]) if np.isfinite(candidates["logit"][best]) else -1
        if not np.isfinite(candidates["logit"].max()):
            return -1
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        draw = lib.llama_sampler_init_dist(seed_of(self._sampling.seed, index))
        lib.llama_sampler_apply(draw, ctypes.byref(array))
        lib.llama_sampler_free(draw)
        return int(array.data[array.selected].id)

    def close(self) -> None:
        for part in (self._chain, self._penalties, self._grammar):
            if part:
                lib.llama_sampler_free(part)
        self._chain = self._penalties = self._grammar = None


def _array(candidates: NDArray[Any]) -> Any:
    data = candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
    return lib.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)


def gbnf_of_schema(schema_json: str) -> str:
    """The GBNF grammar of a JSON schema, by llama.cpp's own rules; raises ValueError."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        return str(json_schema_to_gbnf(schema_json))
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
