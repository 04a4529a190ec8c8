"""What a step costs, learnt from the steps that ran. Pure.

A step reads all weights once, whatever it computes; that is what a decode step of one sequence takes, nearly. So a step
costs what its streams cost, or one stream where there is none, and for each token of a prompt the products with the
weights, and the looking back on all tokens before it:

    seconds = decode(max(1, streams)) + tokens × (a + b × context)

Measured (Qwen2.5 0.5B, Q4_K_M, two threads, behind 1,024 tokens, ms): 7 streams 106, a prompt of 16, 32, 64, 128, 256
tokens 106, 175, 316, 608, 1,177, both in one step 177, 246, 393, 673, 1,292.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from workers.engine.row_costs import RowCosts

_SMOOTHING = 0.3
_LEAST_SHARE = 0.25
"""Of what a token costs with its share of the reading: so much is its own at least."""
LOGITS = 2
"""A stream's token costs so many of a prompt's, beside others (measured: 8.3 ms and 3.8 ms)."""


@dataclass
class CostModel:
    """Seconds of a step. Tokens' contexts are the numbers of tokens before them."""

    prefill_seconds_per_token: float = 0.005
    """Of a prompt's token, its share of the reading and its context too, as steps took: how quick we are."""
    rows: RowCosts = field(default_factory=lambda: RowCosts({1: 0.05}))
    """Of decode steps: a row is a token of a sequence, or a guess at one of its next."""
    token_seconds: float = 0.0
    """Of a prompt's token, without reading and context; 0 stands for all of the first."""
    context_seconds: float = 0.0
    """Of each token before a prompt's token."""

    def __post_init__(self) -> None:
        self.token_seconds = self.token_seconds or self.prefill_seconds_per_token

    @classmethod
    def measured(cls, prefill_seconds_per_token: float, num_tokens: int, rows: RowCosts) -> CostModel:
        """Of a step of so many tokens and no context, and of decode steps."""
        own = prefill_seconds_per_token - rows.seconds(1) / num_tokens
        return cls(prefill_seconds_per_token, rows, max(own, _LEAST_SHARE * prefill_seconds_per_token))

    def prefill(self, num_tokens: int, context: int = 0) -> float:
        """Seconds that so many tokens of a prompt add to a step, where `context` tokens are before the first."""
        return num_tokens * (self.token_seconds + self.context_seconds * (context + num_tokens / 2))

    def num_tokens(self, seconds: float, context: int) -> int:
        """How many tokens of a prompt add so many seconds to a step."""
        if seconds <= 0:
            return 0
        first = self.token_seconds + self.context_seconds * context
        # Each token costs `context_seconds` more than the one before it: a quadratic equation's root, without its
        # difference of two like numbers.
        return int(2 * seconds / (first + math.sqrt(first * first + 2 * self.context_seconds * seconds)))

    def decode(self, num_sequences: int) -> float:
        """Seconds of a step with a row of each; a stream more than was measured costs two tokens of a prompt, whose
        logits nobody wants, at most."""
        return self.rows.seconds(num_sequences, LOGITS * self.token_seconds) if num_sequences > 0 else 0.0

    def observe_prefill(self, num_tokens: int, context: float, num_sequences: int, seconds: float) -> None:
        """Learns from a step with so many tokens of prompts, their mean context, and so many streams: a step of
        normalised least mean squares (Widrow and Hoff 1960) towards what it took."""
        # Of more streams than were measured nothing is guessed: a prompt had better seem dearer than cheaper.
        read, streams = self.decode(1), self.rows.known(max(1, num_sequences))
        own = max(seconds - streams, 0.0) / num_tokens
        error = own - self.token_seconds - self.context_seconds * context
        # The context in thousands, so that it weighs as much as the token itself where there is much of it.
        scaled = context / 1000
        part = _SMOOTHING * error / (1 + scaled * scaled)
        self.context_seconds = max(self.context_seconds + part * scaled / 1000, 0.0)
        told = max(seconds - streams + read, own * num_tokens) / num_tokens
        self.prefill_seconds_per_token += _SMOOTHING * (told - self.prefill_seconds_per_token)
        # A neighbour may have made decode steps dearer than reading is: a token never costs next to nothing.
        self.token_seconds = max(self.token_seconds + part, _LEAST_SHARE * self.prefill_seconds_per_token)
