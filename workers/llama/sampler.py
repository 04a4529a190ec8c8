"""How a token is chosen from logits: llama.cpp's samplers, one chain a sequence, one seed a token."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from broker.errors import TurnRejected
from broker.messages import Sampling, TokenLogprob
from workers.engine.protocol import PENDING, Foresee
from workers.grammars.frames import LIST, TAKE, TRY, with_token
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText
from workers.grammars.remote_matcher import RemoteMatcher
from workers.llama.adjustments import Adjustments, Logits
from workers.llama.vocabulary import LlamaVocabulary

log = logging.getLogger(__name__)

_MASK = (1 << 64) - 1
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def seed_of(seed: int, index: int) -> int:
    """The 32-bit seed of an answer's token `index`: SplitMix64 (Steele et al. 2014) of the turn's seed and the index.

    It depends on nothing else, so that a turn that is resumed elsewhere draws what it would have drawn.
    """
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) & 0xFFFFFFFF


class LlamaSampler:
    """Chooses one sequence's tokens. Greedy without penalty or grammar is an argmax and nothing else.

    `tokens` are all that are known, the list that grows with what is chosen; the last `num_answered` are the answer's.
    """

    def __init__(
        self,
        vocabulary: LlamaVocabulary,
        logits: Callable[[int], Logits],
        sampling: Sampling,
        tokens: list[int],
        grammar: HeldText | CallFollower | None,
        foresee: Foresee | None = None,
        num_answered: int = 0,
    ) -> None:
        self._vocabulary = vocabulary
        self._foresee = foresee
        self._logits = logits
        self._sampling = sampling
        self._masked = np.array(sorted(vocabulary.end_tokens), dtype=np.int64) if sampling.ignore_eos else None
        self._adjustments = Adjustments(vocabulary, sampling, tokens, num_answered)
        self._chain: Any = None
        self._grammar: RemoteMatcher | None = None
        self._kept: Logits | None = None
        self._offered = (-1, 0)
        """The token that the grammar was asked about, −1 where it was asked for all, and its index in the answer."""
        self._calls = grammar if isinstance(grammar, CallFollower) else None
        self._taken: deque[int] = deque()
        """Tokens of the answer that the grammar has to take before it is asked about the next."""
        self._is_taking = False
        """The first of them it was told."""
        self._candidates: NDArray[Any] | None = None
        if sampling.temperature > 0:
            self._candidates = np.zeros(vocabulary.num_tokens, dtype=_CANDIDATE)
            self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
            # Cuts on the model's own probabilities first, then the temperature: llama.cpp's default order.
            for part in self._cuts(sampling):
                lib.llama_sampler_chain_add(self._chain, part)
        try:
            if isinstance(grammar, HeldText):
                field = "sampling.grammar" if sampling.json_schema is None else "sampling.json_schema"
                self._taken.extend(grammar.written)
                self._grammar = RemoteMatcher(vocabulary.matcher_process, grammar.gbnf, field)
            elif grammar is not None and grammar.gbnf is not None:
                self._grammar = self._opened(grammar)
        except TurnRejected:
            self.close()
            raise

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
        """The token chosen from a row of the last step's logits; −1 where none is allowed and the answer is whole,
        PENDING where `poll` will tell. Raises TurnRejected."""
        logits = self._logits(row)
        if self._masked is not None:
            logits[self._masked] = -np.inf
        if self._grammar is None:
            token = self._choose(logits, index)
            if self._calls is None or token < 0 or self._vocabulary.is_end(token) or not self._calls.would_open(token):
                return self._accepted(token)
            try:
                self._grammar = self._opened(self._calls)
            except TurnRejected as error:
                self._let_go(error)
                return self._accepted(token)
        self._kept, self._offered = logits.copy(), (-1, index)
        return self.poll()

    def _opened(self, calls: CallFollower) -> RemoteMatcher:
        """A call has begun: the matcher of what holds from here on."""
        assert calls.gbnf is not None
        self._taken.extend(calls.tokens)
        return RemoteMatcher(self._vocabulary.matcher_process, calls.gbnf, "tools", has_tokens=True)

    def _offer(self) -> int:
        """Asks about the token that would be chosen without the grammar; only when it objects, about all of them."""
        assert self._grammar is not None
        assert self._kept is not None
        _, index = self._offered
        token = self._choose(self._kept, index)
        if self._vocabulary.is_end(token) and (self._grammar.is_accepting or self._may_end):
            return token
        if token < 0 or self._vocabulary.is_end(token):
            self._grammar.ask(LIST)
        else:
            self._offered = (token, index)
            self._ask(TRY, token)
        return self._polled()

    def _let_go(self, error: TurnRejected) -> None:
        """A call that the model was free to make goes on without the grammar that cannot follow it, and is read as it
        comes; where the grammar is of the whole answer, that is the turn's error."""
        if self._calls is None or self._calls.is_forced:
            raise error
        log.warning("a call is not held any more reason=%s", error.detail)
        if self._grammar is not None:
            self._grammar.close()
        self._grammar = self._calls = None
        self._taken.clear()
        self._is_taking = False

    def poll(self) -> int:
        """After PENDING: the token from the logits that were kept, or PENDING again. Raises TurnRejected."""
        try:
            return self._polled()
        except TurnRejected as error:
            self._let_go(error)
        assert self._kept is not None
        return self._accepted(self._choose(self._kept, self._offered[1]))

    def _polled(self) -> int:
        assert self._grammar is not None
        if not self._grammar.is_asked:
            return self._offer()
        mask = self._caught_up()
        if mask is None:
            return PENDING
        token, _ = self._offered
        if mask:
            return self._among(mask)
        if token < 0:  # the answer to an earlier question: the grammar is compiled
            return self._offer()
        return self._accepted(token)

    def _caught_up(self) -> bytes | None:
        """The answer to what was asked last, once the grammar has taken what it has to take first."""
        assert self._grammar is not None
        while (mask := self._grammar.poll()) is not None:
            if self._is_taking:
                token = self._taken.popleft()
                if self._calls is not None:
                    self._calls.note(token, is_whole=self._grammar.is_accepting)
            self._is_taking = bool(self._taken)
            if not self._is_taking:
                break
            self._grammar.ask(with_token(TAKE, self._taken[0]))
        return mask

    def _among(self, mask: bytes) -> int:
        """The token that is chosen among those that the grammar allows."""
        assert self._grammar is not None
        assert self._kept is not None
        token, index = self._offered
        if self._calls is not None and token >= 0 and (self._grammar.is_accepting or self._may_end):
            # Behind a call only another may come: whatever else it wants is its end, or it would call and call. Until
            # that one has named its tool what is written may be anything else that begins so, as a result does.
            return -1
        allowed = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[: len(self._kept)].astype(bool)
        allowed[list(self._vocabulary.end_tokens)] = self._grammar.is_accepting
        token = self._choose(np.where(allowed, self._kept, np.float32(-np.inf)), index)
        if token < 0 and not self._grammar.is_accepting:
            raise TurnRejected("invalid_grammar", f"{self._grammar.field}: no token of the model can go on from here")
        if token < 0 or self._vocabulary.is_end(token):
            return token
        self._offered = (token, index)
        self._ask(TAKE, token)
        return self._polled()

    def _ask(self, question: bytes, token: int) -> None:
        """About a token, and what will be guessed to follow it."""
        assert self._grammar is not None
        self._grammar.ask(with_token(question, token), self._foresee(token) if self._foresee is not None else ())

    def foretell(self, guess: Sequence[int]) -> None:
        """Asks the grammar, if there is one, how many of these tokens it would allow next."""
        if self._grammar is not None:
            self._grammar.foretell(guess)

    def num_allowed(self, guess: Sequence[int]) -> int:
        """How many of the tokens that are guessed to come next no grammar is known to forbid."""
        return len(guess) if self._grammar is None else self._grammar.num_allowed(guess)

    @property
    def _may_end(self) -> bool:
        return self._calls is not None and self._calls.may_end

    def _accepted(self, token: int) -> int:
        if self._calls is not None and self._grammar is not None:
            self._calls.note(token, is_whole=self._grammar.is_accepting)
            if not self._calls.take(token):
                self._grammar.close()
                self._grammar = None
        return token

    @property
    def matcher(self) -> RemoteMatcher | None:
        """Its grammar's; None without one."""
        return self._grammar

    @property
    def is_done(self) -> bool:
        """Whether the grammar lets nothing follow."""
        return self._grammar is not None and self._grammar.is_done

    def logprob(self, token: int, num_top: int) -> TokenLogprob:
        """Of a token that `poll` chose, in the logits that were kept."""
        assert self._kept is not None
        return logprob_of(self._kept, token, num_top)

    def _choose(self, logits: Logits, index: int) -> int:
        logits = self._adjustments.applied(logits)
        best = int(logits.argmax())
        candidates = self._candidates
        if candidates is None or not np.isfinite(logits[best]):
            return best if np.isfinite(logits[best]) else -1
        # Cuts reorder the array, so the ids are written anew as well.
        candidates["id"] = np.arange(len(candidates), dtype=np.int32)
        candidates["logit"] = logits
        array = _array(candidates)
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        draw = lib.llama_sampler_init_dist(seed_of(self._sampling.seed, index))
        lib.llama_sampler_apply(draw, ctypes.byref(array))
        lib.llama_sampler_free(draw)
        return int(array.data[array.selected].id)

    def close(self) -> None:
        """Frees llama.cpp's samplers and the grammar's process."""
        if self._chain:
            lib.llama_sampler_free(self._chain)
        if self._grammar is not None:
            self._grammar.close()
        self._chain = self._grammar = None


def _array(candidates: NDArray[Any]) -> Any:
    data = candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
    return lib.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)


def logprob_of(row: Logits, token: int, num_top: int) -> TokenLogprob:
    """The token's log-probability in a row of logits, and the likeliest tokens'."""
    logits = row.astype(np.float64)
    peak = logits.max()
    logprobs = logits - (peak + np.log(np.exp(logits - peak).sum()))
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        likeliest = np.argpartition(logprobs, -num_top)[-num_top:]
        likeliest = likeliest[np.argsort(-logprobs[likeliest], kind="stable")]
        top = tuple((int(candidate), float(logprobs[candidate])) for candidate in likeliest)
    return TokenLogprob(token, float(logprobs[token]), top)
