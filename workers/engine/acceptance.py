"""How likely a guess is right, by what guesses of its kind came to before in the same sequence. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FADING = 0.95
"""What one guess says of the next ones, compared with a later one."""
PRIOR_WEIGHT = 2.0
"""Guesses that the prior counts as."""


class Acceptance:
    """Of one sequence, whose guesses are of so many kinds."""

    def __init__(self, priors: Sequence[float]) -> None:
        """How likely a guess of each kind is right, before the sequence has shown it."""
        self._priors = priors
        self._hits = [0.0] * len(priors)
        self._tries = [0.0] * len(priors)

    def likelihood(self, kind: int) -> float:
        """That one more of that kind is right."""
        return (self._hits[kind] + PRIOR_WEIGHT * self._priors[kind]) / (self._tries[kind] + PRIOR_WEIGHT)

    def note(self, kind: int, *, is_right: bool) -> None:
        """One of that kind was right, or not."""
        self._hits[kind] = FADING * self._hits[kind] + is_right
        self._tries[kind] = FADING * self._tries[kind] + 1


PRIOR = 0.6
"""How likely a draft model is taken to be right before it was ever seen."""
FIRST_PATIENCE = 16
MAX_PATIENCE = 4096
"""Steps without a draft between two trials that do not pay: doubled from the first to the longest."""


@dataclass
class Trust:
    """In a draft model, by what its tokens came to: of one sequence, or of all of them. It costs a draft to learn, so
    that one that is not drafted for any more is tried again now and then."""

    fading: float = FADING
    hits: float = 0.0
    tries: float = 0.0
    num_idle: int = 0
    """Steps since the last draft."""
    patience: int = FIRST_PATIENCE

    def likelihood(self, prior: float) -> float:
        """That its next token is right."""
        found = (self.hits + PRIOR_WEIGHT * prior) / (self.tries + PRIOR_WEIGHT)
        return max(found, PRIOR) if self.num_idle >= self.patience else found

    def note(self, num_right: int, *, is_wrong: bool) -> None:
        """A draft: so many of its tokens were right, and then one was not, or none was left."""
        for is_right in [True] * num_right + [False] * is_wrong:
            self.hits = self.fading * self.hits + is_right
            self.tries = self.fading * self.tries + 1
        if num_right:
            self.patience = FIRST_PATIENCE
        elif is_wrong and self.num_idle >= self.patience:
            self.patience = min(2 * self.patience, MAX_PATIENCE)
        self.num_idle = 0

    def pass_by(self) -> None:
        """A step without a draft."""
        self.num_idle += 1
