"""A model's line of the experiment's table, from its record, its worker's process and its evaluation.

What the paper published (arXiv 2411.17712: four Raspberry Pi 5, llama.cpp, 4-bit models) stands beside it.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from msgspec import Struct

from producers.evaluate.methods import Answered, accuracies
from producers.records.files import Run
from producers.report.run_figures import by_context, context_cv, figures

PUBLISHED = {
    "internlm2-5-7b": "Winogrande about 0.8",
    "gemma-7b": "Winogrande about 0.7",
    "llama-3-8b": "Winogrande about 0.69",
    "yi-6b": "Winogrande about 0.49",
    "zephyr-7b": "Winogrande about 0.46",
}
"""Of the catalogue's models, by their whole names: another size of a family is another model."""
PUBLISHED_OF_ALL = "5 to 12 tokens per second, under 50 % of CPU and memory"


@dataclass
class Sampled:
    """A worker's process while it worked: shares of all cores, bytes, and how often it had to be started again."""

    cpu_shares: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    num_restarts: int = 0
    num_kills: int = 0
    """Of those, by SIGKILL: which where nobody else sends it is the kernel's, out of memory."""

    def note_restart(self, returncode: int) -> None:
        """The process ended by itself, and is started again."""
        self.num_restarts += 1
        self.num_kills += returncode == -signal.SIGKILL


class Row(Struct, frozen=True):
    """One model of the table. Seconds are per token; None is what was not measured here."""

    model: str
    file: str
    num_turns: int
    num_failed: int
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    prefill_seconds_per_token: float | None
    decode_seconds_per_token: float | None
    total_seconds_per_token: float | None
    ttft_seconds: float | None
    cv: float | None
    cached_share: float | None
    cpu_share: float | None
    rss_bytes: int | None
    num_restarts: int | None
    num_kills: int | None
    accuracies: dict[str, tuple[float, float | None]]
    published: str
    failures: dict[str, int] = {}
    """How many turns failed, by the code of the failure."""
    effect: str = ""
    """Of a second quantisation, against the first."""


def effect(first: Row, second: Row) -> str:
    """What another quantisation of the same model changes: ratios second ÷ first, and the accuracies' difference."""
    found = [
        f"{name} × {two / one:.2f}"
        for name, one, two in (
            ("prefill", first.prefill_tokens_per_second, second.prefill_tokens_per_second),
            ("decode", first.decode_tokens_per_second, second.decode_tokens_per_second),
            ("memory", first.rss_bytes, second.rss_bytes),
        )
        if one and two
    ]
    if "partial" in first.accuracies and "partial" in second.accuracies:
        found.append(f"Winogrande {second.accuracies['partial'][0] - first.accuracies['partial'][0]:+.3f}")
    return f"{first.model}: {', '.join(found)}" if found else ""


def row(run: Run, sampled: Sampled | None, answers: list[Answered]) -> Row:
    """A model's line of the table, from its record."""
    found = figures(run)
    done = [turn for turn in run.counted() if not turn.is_failed]
    computed = sum(turn.prompt_tokens - turn.cached_tokens for turn in done)
    prefill = sum(turn.prefill_seconds or 0.0 for turn in done)
    decode = sum(turn.decode_seconds or 0.0 for turn in done)
    generated = sum(max(0, turn.completion_tokens - 1) for turn in done)
    tokens = sum(turn.prompt_tokens + turn.completion_tokens for turn in done)
    spreads = found.quantities
    workers = [worker for worker in run.header.workers if worker.get("model") == found.model]
    files = {f"{worker.get('model_name')} {worker.get('quantization')}" for worker in workers}
    failed = {turn.outcome for turn in run.counted() if turn.is_failed}
    return Row(
        model=found.model,
        file=", ".join(sorted(files)),
        num_turns=found.num_turns,
        num_failed=found.num_failed,
        prefill_tokens_per_second=computed / prefill if prefill else None,
        decode_tokens_per_second=generated / decode if decode else None,
        prefill_seconds_per_token=prefill / computed if computed else None,
        decode_seconds_per_token=decode / generated if generated else None,
        total_seconds_per_token=sum(turn.latency_seconds for turn in done) / tokens if tokens else None,
        ttft_seconds=spreads["ttft_seconds"].mean if "ttft_seconds" in spreads else None,
        cv=context_cv(by_context(done)),
        cached_share=found.cached_share,
        cpu_share=sum(sampled.cpu_shares) / len(sampled.cpu_shares) if sampled and sampled.cpu_shares else None,
        rss_bytes=max(sampled.rss_bytes) if sampled and sampled.rss_bytes else None,
        num_restarts=sampled.num_restarts if sampled else None,
        num_kills=sampled.num_kills if sampled else None,
        accuracies={one.method: (one.accuracy, one.standard_error) for one in accuracies(answers)},
        published=PUBLISHED.get(found.model.lower(), ""),
        failures={code: count for code, count in found.outcomes.items() if code in failed},
    )
