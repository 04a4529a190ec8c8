"""An engine with a real vocabulary whose logits a test writes down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from broker.messages import Sampling, TokenLogprob
from tests.engine_bench import Bench, Observed
from workers.engine.events import Finished, Generated, Job
from workers.engine.protocol import Foresee, TokenSampler
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText
from workers.llama.adjustments import Logits
from workers.llama.sampler import LlamaSampler, logprob_of
from workers.llama.vocabulary import LlamaVocabulary

PROMPT = [0, 0, 0]


class Scripted(Observed):
    """Prefers, token by token of an answer, the first of those that were written down, then the second, …"""

    def __init__(self, vocabulary: LlamaVocabulary, wanted: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.vocabulary = vocabulary  # type: ignore[assignment]
        self._real = vocabulary
        self._wanted = wanted

    def _logits(self, row: int) -> Logits:
        _, position = self.rows[row]
        logits = np.zeros(self._real.num_tokens, np.float32)
        for rank, token in enumerate(self._wanted[position + 1 - len(PROMPT)]):
            logits[token] = 200.0 - 50 * rank
        return logits

    def sampler(
        self,
        sampling: Sampling,
        tokens: list[int],
        grammar: HeldText | CallFollower | None,
        foresee: Foresee | None = None,
        num_answered: int = 0,
    ) -> TokenSampler:
        return LlamaSampler(self._real, self._logits, sampling, tokens, grammar, foresee, num_answered)

    def logprob(self, row: int, token: int, num_top: int) -> TokenLogprob:
        return logprob_of(self._logits(row), token, num_top)


def answered(
    vocabulary: LlamaVocabulary, wanted: Sequence[Sequence[int]], sampling: Sampling
) -> tuple[list[Generated], str]:
    """What is told of an answer, and how it finished."""
    bench = Bench(Scripted(vocabulary, wanted))
    bench.loop.submit(Job("a", "c", "v", PROMPT, sampling.max_tokens, sampling=sampling))
    bench.round()
    bench.run()
    end = bench.end("a")
    assert isinstance(end, Finished), end
    return [event for event in bench.of("a") if isinstance(event, Generated)], end.reason
