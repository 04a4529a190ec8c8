"""What each turn of a run has or has not, by name, and how it is spread over the turns. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from broker import formulas
from producers.records.lines import TurnRecord

PERCENTILES = (50.0, 90.0, 99.0)


class Spread(Struct, frozen=True):
    """A quantity over the turns of a run."""

    count: int
    mean: float
    standard_deviation: float
    """Over the population."""
    p50: float
    p90: float
    p99: float

    @property
    def cv(self) -> float | None:
        """Standard deviation ÷ mean; None for a mean of zero."""
        return self.standard_deviation / self.mean if self.mean else None


def spread(values: Sequence[float]) -> Spread | None:
    """None without values."""
    mean, deviation = formulas.mean(values), formulas.standard_deviation(values)
    if mean is None or deviation is None:
        return None
    p50, p90, p99 = (formulas.percentile(values, q) or 0.0 for q in PERCENTILES)
    return Spread(len(values), mean, deviation, p50, p90, p99)


class Quantity(Struct, frozen=True):
    """Something that each turn has or has not: how it is called, its unit, and how to read it off a turn."""

    key: str
    title: str
    unit: str
    of: Callable[[TurnRecord], float | None]


TTFT = Quantity("ttft_seconds", "time to first token", "s", lambda turn: turn.ttft_seconds)
SCHEDULED_TTFT = Quantity(
    "scheduled_ttft_seconds", "… from its scheduled send", "s", lambda turn: turn.scheduled_ttft_seconds
)
TPOT = Quantity("tpot_seconds", "time per output token", "s", lambda turn: turn.tpot_seconds)
DECODE_RATE = Quantity("decode_tokens_per_second", "decode", "tokens/s", lambda turn: turn.decode_tokens_per_second)
QUANTITIES = (
    TTFT,
    SCHEDULED_TTFT,
    TPOT,
    Quantity("latency_seconds", "latency of a turn", "s", lambda turn: turn.latency_seconds),
    Quantity("queue_wait_seconds", "queue wait", "s", lambda turn: turn.queue_wait_seconds),
    Quantity("prefill_tokens_per_second", "prefill", "tokens/s", lambda turn: turn.prefill_tokens_per_second),
    DECODE_RATE,
    Quantity("prompt_tokens", "prompt", "tokens", lambda turn: float(turn.prompt_tokens)),
    Quantity("completion_tokens", "answer", "tokens", lambda turn: float(turn.completion_tokens)),
)
"""What a report has a row for."""


def values(turns: Sequence[TurnRecord], quantity: Quantity) -> list[float]:
    """Of the turns that were answered and have it."""
    return [value for turn in turns if not turn.is_failed and (value := quantity.of(turn)) is not None]
