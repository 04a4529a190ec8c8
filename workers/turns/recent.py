"""What the worker's turns came to lately: what is expected of those that come."""

from __future__ import annotations

from dataclasses import dataclass

from broker.messages import End, Failed

FIRST_MEAN_SECONDS = 10.0
"""What a turn is expected to take until one was seen."""
_SMOOTHING = 0.2
_FORGETTING = 0.02
_UNSEEN = 2
"""After the first turn one of three times its length is thought possible, after many none longer than those were."""


@dataclass
class RecentTurns:
    """Exponentially weighted means over the turns in the order of their ends; None until there was one."""

    mean_seconds: float = FIRST_MEAN_SECONDS
    """From a delivery to its settlement."""
    longest_seconds: float = 0.0
    """Of the longest one; it is slowly forgotten."""
    mean_tokens: float | None = None
    """Of an answer."""
    cached_share: float | None = None
    """Of a prompt's tokens."""
    num_failed: int = 0
    """Turns that ended as failed, since the start."""
    num_settled: int = 0
    """Deliveries, since the start."""
    num_aside: int = 0
    """Deliveries of turns that take no slot: nothing is expected of the others by them."""

    def took(self, seconds: float) -> None:
        """A delivery was settled after so long."""
        self.mean_seconds = _smoothed(self.mean_seconds, seconds)
        self.longest_seconds = max(seconds, (1 - _FORGETTING) * self.longest_seconds)
        self.num_settled += 1

    def took_no_slot(self) -> None:
        """A delivery was settled that no other had to wait for."""
        self.num_aside += 1

    @property
    def longest_expected_seconds(self) -> float | None:
        """What the longest one may take: that of a few is longer than the longest of them. None before the first."""
        return self.longest_seconds * (1 + _UNSEEN / self.num_settled) if self.num_settled else None

    def computed(self, num_tokens: int) -> None:
        """An answer was so long."""
        self.mean_tokens = _smoothed(self.mean_tokens, num_tokens)

    def ended(self, end: End) -> None:
        """An end of ours was stored."""
        if isinstance(end, Failed):
            self.num_failed += 1
        elif end.usage.prompt_tokens:
            self.cached_share = _smoothed(self.cached_share, end.usage.cached_tokens / end.usage.prompt_tokens)


def _smoothed(mean: float | None, value: float) -> float:
    return value if mean is None else mean + _SMOOTHING * (value - mean)
