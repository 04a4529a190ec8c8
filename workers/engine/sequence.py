"""A turn inside a worker. Pure: no I/O, no model.

A sequence only has computed tokens that catch up with known tokens. Prefill, prefix reuse and decode are one case:
they differ in how many known tokens are not computed yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Sequence:
    """The tokens of one turn and how far they are computed. Owned by the engine loop."""

    id: str
    tokens: list[int]
    """All known tokens: the prompt's, then those chosen so far."""
    num_prompt_tokens: int
    max_tokens: int
    """How many tokens may be generated, at most."""
    arrived_at: float
    """By the monotonic clock of the engine loop."""
    slot: int = -1
    num_computed: int = 0
    num_cached: int = 0
    """Of the prompt's tokens, those that were not computed for this turn."""
    first_output: int = field(default=-1)
    """The first position whose logits are wanted; −1 stands for the last prompt token's."""
    stops: tuple[int, ...] = ()
    """Positions that no step computes across, in order: behind each of them a checkpoint is made."""
    num_to_come: int = 0
    """Tokens that will be known once these are computed: the further continuations of a scored turn."""
    num_drafted: int = 0
    """Tokens that were guessed and computed for it."""
    num_accepted: int = 0
    """Of those, the ones that were chosen then."""

    def __post_init__(self) -> None:
        assert 0 < self.num_prompt_tokens <= len(self.tokens)
        if self.first_output < 0:
            self.first_output = self.num_prompt_tokens - 1

    def stop_at(self, num_tokens: int) -> None:
        """Its computation pauses behind so many tokens too, for others to copy them."""
        self.stops = tuple(sorted({*self.stops, num_tokens}))

    @property
    def num_remaining(self) -> int:
        """Known tokens that are not computed yet."""
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """One token behind, past the prompt: what a decode step takes."""
        return self.num_remaining == 1 and len(self.tokens) > self.num_prompt_tokens

    @property
    def num_generated(self) -> int:
        """The answer's tokens so far, those of an earlier attempt too."""
        return len(self.tokens) - self.num_prompt_tokens
