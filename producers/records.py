"""What is noted of each turn, and the figures of a run."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from broker import metrics
from broker.messages import Done, Failed


class TurnRecord(Struct, frozen=True):
    """One turn of a run. Instants in seconds by the producer's monotonic clock."""

    conversation: str
    turn: str
    sent_at: float
    ended_at: float
    end: Done | Failed
    token_times: tuple[float, ...] = ()
    """The arrival of each token; those of one chunk arrived together."""

    @property
    def ttft_seconds(self) -> float | None:
        return metrics.ttft(self.sent_at, self.token_times[0]) if self.token_times else None

    @property
    def tpot_seconds(self) -> float | None:
        if not self.token_times:
            return None
        return metrics.tpot(self.token_times[0], self.token_times[-1], len(self.token_times))


class Summary(Struct, frozen=True):
    """A run in figures. Rates in tokens per second; None where there was nothing to measure."""

    num_turns: int
    num_failed: int
    seconds: float
    ttft_p50_seconds: float | None
    ttft_p99_seconds: float | None
    tpot_p50_seconds: float | None
    tpot_p99_seconds: float | None
    itl_max_seconds: float | None
    prefill_tokens_per_second: float | None
    """Prompt tokens not from the cache ÷ the workers' time for them, over all turns."""
    decode_tokens_per_second: float | None
    """The mean of the turns' own decode rates."""
    throughput_tokens_per_second: float | None
    """Generated tokens of all turns ÷ the run's wall time."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


def summarize(records: Sequence[TurnRecord], seconds: float) -> Summary:
    """The figures of a run that took `seconds` of wall time."""
    done = [(record, record.end) for record in records if isinstance(record.end, Done)]
    ttfts = [value for record, _ in done if (value := record.ttft_seconds) is not None]
    tpots = [value for record, _ in done if (value := record.tpot_seconds) is not None]
    gaps = [gap for record, _ in done for gap in metrics.inter_token_latencies(record.token_times)]
    prompt = sum(end.usage.prompt_tokens for _, end in done)
    cached = sum(end.usage.cached_tokens for _, end in done)
    completion = sum(end.usage.completion_tokens for _, end in done)
    rates = [metrics.decode_rate(end.usage.completion_tokens, end.timings.decode) for _, end in done]
    return Summary(
        num_turns=len(records),
        num_failed=len(records) - len(done),
        seconds=seconds,
        ttft_p50_seconds=metrics.percentile(ttfts, 50),
        ttft_p99_seconds=metrics.percentile(ttfts, 99),
        tpot_p50_seconds=metrics.percentile(tpots, 50),
        tpot_p99_seconds=metrics.percentile(tpots, 99),
        itl_max_seconds=max(gaps, default=None),
        prefill_tokens_per_second=metrics.prefill_rate(prompt, cached, sum(end.timings.prefill for _, end in done)),
        decode_tokens_per_second=metrics.mean([rate for rate in rates if rate is not None]),
        throughput_tokens_per_second=completion / seconds if seconds > 0 and completion else None,
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
    )
