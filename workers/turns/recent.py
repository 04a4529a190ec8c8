"""What the worker's turns came to lately: what is expected of those that come."""

from __future__ import annotations

from dataclasses import dataclass

from broker.messages import End, Failed

FIRST_MEAN_SECONDS = 10.0
"""What a turn is expected to take until one was seen."""
_SMOOTHING = 0.2


@dataclass
class RecentTurns:
    """Exponentially weighted means over the turns in the order of their ends; None until there was one."""

    mean_seconds: float = FIRST_MEAN_SECONDS
    """From a delivery to its settlement."""
    mean_tokens: float | None = None
    """Of an answer."""
    cached_share: float | None = None
    """Of a prompt's tokens."""
    num_failed: int = 0
    """Turns that ended as failed, since the start."""
    num_settled: int = 0
    """Deliveries, since the start."""

    def took(self, seconds: float) -> None:
        """A delivery was settled after so long."""
        self.mean_seconds = _smoothed(self.mean_seconds, seconds)
        self.num_settled += 1

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
