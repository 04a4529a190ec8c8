"""What is made of a run's turns: its figures, how many of its turns were good, and why others failed. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from broker import metrics
from producers.records.lines import TurnRecord


def details(turns: Iterable[TurnRecord]) -> list[str]:
    """Why turns failed in the words of the first one of each code, a line each."""
    found: dict[str, str] = {}
    for turn in turns:
        if turn.is_failed and turn.detail:
            found.setdefault(turn.outcome, f"{turn.outcome}: {turn.detail}")
    return list(found.values())


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


class Bounds(Struct, frozen=True):
    """What a turn must meet to count as good: from the scheduled send where there is one."""

    ttft_seconds: float | None = None
    tpot_seconds: float | None = None

    def __bool__(self) -> bool:
        return self.ttft_seconds is not None or self.tpot_seconds is not None

    def are_met(self, turn: TurnRecord) -> bool:
        if turn.is_failed or turn.outcome == "cancelled" or turn.ttft_seconds is None:
            return False
        ttft = turn.scheduled_ttft_seconds if turn.scheduled_at is not None else turn.ttft_seconds
        if self.ttft_seconds is not None and (ttft is None or ttft > self.ttft_seconds):
            return False
        tpot = turn.tpot_seconds
        return self.tpot_seconds is None or tpot is None or tpot <= self.tpot_seconds


NO_BOUNDS = Bounds()


def summarize(records: Sequence[TurnRecord], seconds: float, bounds: Bounds = NO_BOUNDS) -> Summary:
    """The figures of a run that took `seconds` of wall time."""
    done = [record for record in records if not record.is_failed]
    ttfts = [value for record in done if (value := record.ttft_seconds) is not None]
    scheduled = [value for record in done if (value := record.scheduled_ttft_seconds) is not None]
    tpots = [value for record in done if (value := record.tpot_seconds) is not None]
    prompt = sum(record.prompt_tokens for record in done)
    cached = sum(record.cached_tokens for record in done)
    completion = sum(record.completion_tokens for record in done)
    num_good = sum(bounds.are_met(record) for record in records)
    prefill_seconds = sum(record.prefill_seconds or 0.0 for record in done)
    return Summary(
        num_turns=len(records),
        num_failed=len(records) - len(done),
        seconds=seconds,
        ttft_p50_seconds=metrics.percentile(ttfts, 50),
        ttft_p99_seconds=metrics.percentile(ttfts, 99),
        scheduled_ttft_p99_seconds=metrics.percentile(scheduled, 99),
        tpot_p50_seconds=metrics.percentile(tpots, 50),
        tpot_p99_seconds=metrics.percentile(tpots, 99),
        itl_max_seconds=max((gap for record in done for gap in record.gaps()), default=None),
        prefill_tokens_per_second=metrics.prefill_rate(prompt, cached, prefill_seconds),
        decode_tokens_per_second=metrics.mean(
            [rate for record in done if (rate := record.decode_tokens_per_second) is not None]
        ),
        throughput_tokens_per_second=completion / seconds if seconds > 0 and completion else None,
        turns_per_second=len(done) / seconds if seconds > 0 and done else None,
        goodput_turns_per_second=num_good / seconds if bounds and seconds > 0 else None,
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        failures=dict(Counter(record.outcome for record in records if record.is_failed)),
    )
