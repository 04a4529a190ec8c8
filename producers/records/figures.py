"""What is made of a run's turns: its figures, how many of its turns were good, and why others failed. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from msgspec import Struct

from broker import formulas
from producers.records.lines import TurnRecord
from producers.records.quantities import DECODE_RATE, SCHEDULED_TTFT, TPOT, TTFT, Quantity, values


def details(turns: Iterable[TurnRecord]) -> list[str]:
    """Why turns failed in the words of the first one of each code, a line each."""
    found: dict[str, str] = {}
    for turn in turns:
        if turn.is_failed and turn.detail:
            found.setdefault(turn.outcome, f"{turn.outcome}: {turn.detail}")
    return list(found.values())


class Bounds(Struct, frozen=True):
    """What a turn must meet to count as good: from the scheduled send where there is one."""

    ttft_seconds: float | None = None
    tpot_seconds: float | None = None

    def __bool__(self) -> bool:
        return self.ttft_seconds is not None or self.tpot_seconds is not None

    def are_met(self, turn: TurnRecord) -> bool:
        """Whether the turn was answered in time; one that failed or was cancelled was not."""
        if turn.is_failed or turn.outcome == "cancelled" or turn.ttft_seconds is None:
            return False
        ttft = turn.scheduled_ttft_seconds if turn.scheduled_at is not None else turn.ttft_seconds
        if self.ttft_seconds is not None and (ttft is None or ttft > self.ttft_seconds):
            return False
        tpot = turn.tpot_seconds
        return self.tpot_seconds is None or tpot is None or tpot <= self.tpot_seconds


NO_BOUNDS = Bounds()


class Figures:
    """What turns that took `seconds` together are as a whole: each figure is computed when it is asked for.

    Rates are None where there is nothing to measure. Those of a failed turn count for nothing but its failure.
    """

    def __init__(self, turns: Sequence[TurnRecord], seconds: float, bounds: Bounds = NO_BOUNDS) -> None:
        self.turns = turns
        self.seconds = seconds
        self.bounds = bounds

    @cached_property
    def done(self) -> list[TurnRecord]:
        """The turns that did not fail."""
        return [turn for turn in self.turns if not turn.is_failed]

    @property
    def num_failed(self) -> int:
        """How many failed."""
        return len(self.turns) - len(self.done)

    @property
    def outcomes(self) -> dict[str, int]:
        """How many turns ended so, by outcome."""
        return dict(sorted(Counter(turn.outcome for turn in self.turns).items()))

    @property
    def failures(self) -> dict[str, int]:
        """How many failed, by the code of the failure."""
        return dict(Counter(turn.outcome for turn in self.turns if turn.is_failed))

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(turn.prompt_tokens for turn in self.done)

    @property
    def cached_tokens(self) -> int:
        """Of the prompts' tokens, those from the cache."""
        return sum(turn.cached_tokens for turn in self.done)

    @property
    def cached_share(self) -> float | None:
        """Of the prompts' tokens, the share from the cache."""
        prompt = self.prompt_tokens
        return self.cached_tokens / prompt if prompt else None

    @cached_property
    def completion_tokens(self) -> int:
        """Of all answers."""
        return sum(turn.completion_tokens for turn in self.done)

    @property
    def num_calls(self) -> int:
        """Of tools, in all answers."""
        return sum(turn.num_calls for turn in self.done)

    @property
    def num_broken_calls(self) -> int:
        """Of tools, that came as text."""
        return sum(turn.num_broken_calls for turn in self.done)

    @property
    def num_rounds(self) -> int:
        """The turns that brought results of tools, not a user's message."""
        return sum(turn.round > 0 for turn in self.turns)

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """Prompt tokens not from the cache ÷ the workers' time for them, over all turns."""
        seconds = sum(turn.prefill_seconds or 0.0 for turn in self.done)
        return formulas.prefill_rate(self.prompt_tokens, self.cached_tokens, seconds)

    @property
    def turns_per_second(self) -> float | None:
        """Answered turns ÷ wall time."""
        return len(self.done) / self.seconds if self.seconds > 0 and self.done else None

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens of all turns ÷ wall time."""
        tokens = self.completion_tokens
        return tokens / self.seconds if self.seconds > 0 and tokens else None

    @property
    def goodput_turns_per_second(self) -> float | None:
        """Turns that met the bounds ÷ wall time; None without bounds."""
        if not self.bounds or self.seconds <= 0:
            return None
        return sum(self.bounds.are_met(turn) for turn in self.turns) / self.seconds

    def values(self, quantity: Quantity) -> list[float]:
        """Of the turns that were answered and have it."""
        return values(self.done, quantity)

    def gaps(self) -> Iterator[float]:
        """Seconds between tokens, pooled over all turns."""
        return (gap for turn in self.done for gap in turn.gaps())


class Summary(Struct, frozen=True):
    """A run in figures. Rates in tokens per second; None where there was nothing to measure."""

    num_turns: int
    num_failed: int
    seconds: float
    ttft_p50_seconds: float | None
    ttft_p99_seconds: float | None
    scheduled_ttft_p99_seconds: float | None
    tpot_p50_seconds: float | None
    tpot_p99_seconds: float | None
    itl_max_seconds: float | None
    prefill_tokens_per_second: float | None
    """Prompt tokens not from the cache ÷ the workers' time for them, over all turns."""
    decode_tokens_per_second: float | None
    """The mean of the turns' own decode rates."""
    throughput_tokens_per_second: float | None
    """Generated tokens of all turns ÷ the run's wall time."""
    turns_per_second: float | None
    goodput_turns_per_second: float | None
    """Turns per second that met the stated TTFT and TPOT; None without such bounds."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    failures: dict[str, int] = {}
    """How many turns failed, by the code of the failure."""
    num_calls: int = 0
    """Of tools, in all answers."""
    num_broken_calls: int = 0
    """Of tools, that came as text."""
    num_rounds: int = 0
    """Of the turns, those that brought results of tools."""


def summarize(turns: Sequence[TurnRecord], seconds: float, bounds: Bounds = NO_BOUNDS) -> Summary:
    """The figures of a run that took `seconds` of wall time."""
    found = Figures(turns, seconds, bounds)
    ttfts, tpots = found.values(TTFT), found.values(TPOT)
    return Summary(
        num_turns=len(turns),
        num_failed=found.num_failed,
        seconds=seconds,
        ttft_p50_seconds=formulas.percentile(ttfts, 50),
        ttft_p99_seconds=formulas.percentile(ttfts, 99),
        scheduled_ttft_p99_seconds=formulas.percentile(found.values(SCHEDULED_TTFT), 99),
        tpot_p50_seconds=formulas.percentile(tpots, 50),
        tpot_p99_seconds=formulas.percentile(tpots, 99),
        itl_max_seconds=max(found.gaps(), default=None),
        prefill_tokens_per_second=found.prefill_tokens_per_second,
        decode_tokens_per_second=formulas.mean(found.values(DECODE_RATE)),
        throughput_tokens_per_second=found.tokens_per_second,
        turns_per_second=found.turns_per_second,
        goodput_turns_per_second=found.goodput_turns_per_second,
        prompt_tokens=found.prompt_tokens,
        cached_tokens=found.cached_tokens,
        completion_tokens=found.completion_tokens,
        failures=found.failures,
        num_calls=found.num_calls,
        num_broken_calls=found.num_broken_calls,
        num_rounds=found.num_rounds,
    )
