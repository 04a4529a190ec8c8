"""What a turn adds to logits, and takes from them, before anything is cut or drawn: biases and penalties."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from broker.errors import TurnRejected
from broker.messages import Sampling
from broker.messages.turns import FORBIDDEN
from workers.llama.vocabulary import LlamaVocabulary

Logits = NDArray[np.float32]
PENALTY_TOKENS = 64
"""How far back the repeat penalty looks, in prompt and answer."""


class Adjustments:
    """Of one answer. `tokens` are all that are known of it, with its prompt's: the list that grows with what is chosen,
    the last `num_answered` of which are the answer's already."""

    def __init__(self, vocabulary: LlamaVocabulary, sampling: Sampling, tokens: list[int], num_answered: int) -> None:
        """Raises TurnRejected for a bias of a token that there is not."""
        self._tokens = tokens
        self._num_counted = len(tokens) - num_answered
        self._repeat = np.float32(sampling.repeat_penalty)
        self._presence, self._frequency = sampling.presence_penalty, sampling.frequency_penalty
        biases = _biases(vocabulary, sampling.logit_bias)
        self._biased = np.array(list(biases), dtype=np.int64)
        self._biases = np.array(list(biases.values()), dtype=np.float32)
        self._penalties: Logits | None = None
        if self._presence or self._frequency:
            self._penalties = np.zeros(vocabulary.num_tokens, dtype=np.float32)
            self._counted = np.zeros(vocabulary.num_tokens, dtype=bool)

    @property
    def is_none(self) -> bool:
        """Whether logits stay as they are."""
        return not len(self._biased) and self._repeat == 1 and self._penalties is None

    def applied(self, logits: Logits) -> Logits:
        """The logits with all of it: themselves where there is nothing to do, else a copy."""
        if self.is_none:
            return logits
        found = logits.copy()
        found[self._biased] += self._biases
        if self._repeat != 1:
            recent = np.unique(self._tokens[-PENALTY_TOKENS:]).astype(np.int64)
            values = found[recent]
            found[recent] = np.where(values > 0, values / self._repeat, values * self._repeat)
        if self._penalties is not None:
            self._count(self._penalties)
            found -= self._penalties
        return found

    def _count(self, penalties: Logits) -> None:
        """Catches up with what was chosen since."""
        for token in self._tokens[self._num_counted :]:
            if not self._counted[token]:
                self._counted[token] = True
                penalties[token] += self._presence
            penalties[token] += self._frequency
        self._num_counted = len(self._tokens)


def _biases(vocabulary: LlamaVocabulary, given: tuple[tuple[int | str, float], ...]) -> dict[int, float]:
    """Each token's; a text's are those of its tokens, and several of one token add up."""
    found: dict[int, float] = {}
    for of, bias in given:
        if isinstance(of, int) and of >= vocabulary.num_tokens:
            raise TurnRejected(
                "invalid_message", f"sampling.logit_bias: {of} is no token of the model's {vocabulary.num_tokens}"
            )
        tokens = [of] if isinstance(of, int) else vocabulary.tokenize(of, template_spans=[], add_bos=False)
        value = bias if bias > FORBIDDEN else -np.inf
        for token in tokens:
            found[token] = found.get(token, 0.0) + value
    return found
