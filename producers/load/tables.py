"""A run for people: as it stands while it goes on, and its figures when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from producers.load.generator import Progress
from producers.records.figures import Summary, summarize
from producers.terminal.tables import FoldingTable, causes


@contextmanager
def showing(console: Console, render: Callable[[], RenderableType]) -> Iterator[None]:
    """Draws `render()` four times a second on a terminal; elsewhere nothing."""
    if not console.is_terminal:
        yield
        return
    with Live(console=console, refresh_per_second=4, get_renderable=render, transient=True):
        yield


def progress_table(progress: Progress) -> Table:
    """The run as it stands, and about how long it will still take."""
    seconds = time.perf_counter() - progress.started_at
    summary = summarize(progress.records, seconds)
    # On a schedule nobody knows how many there will be.
    of = f" of {progress.num_conversations}" if progress.num_conversations else ""
    title = f"{progress.num_finished}{of} conversations, {seconds:.0f} s"
    if 0 < progress.num_finished < progress.num_conversations:
        left = seconds / progress.num_finished * (progress.num_conversations - progress.num_finished)
        title += f", about {left:.0f} s left"
    return summary_table(summary, title, num_active=len(progress.active))


def summary_table(
    summary: Summary, title: str, *, num_active: int | None = None, memory_bytes: int | None = None
) -> Table:
    """The figures for people."""
    table = FoldingTable(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")

    def milliseconds(p50: float | None, p99: float | None) -> str:
        return "–" if p50 is None or p99 is None else f"{p50 * 1000:.0f} / {p99 * 1000:.0f} ms"

    def rate(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f} tokens/s"

    turns = f"{summary.num_turns}"
    if summary.num_failed:
        turns += f", {summary.num_failed} failed" + (f" ({causes(summary.failures)})" if summary.failures else "")
    table.add_row("turns", Text(turns + (f", {num_active} running" if num_active is not None else "")))
    table.add_row("time to first token, p50 / p99", milliseconds(summary.ttft_p50_seconds, summary.ttft_p99_seconds))
    if summary.scheduled_ttft_p99_seconds is not None:
        table.add_row("… from its scheduled send, p99", f"{summary.scheduled_ttft_p99_seconds * 1000:.0f} ms")
    table.add_row("time per output token, p50 / p99", milliseconds(summary.tpot_p50_seconds, summary.tpot_p99_seconds))
    table.add_row("prefill", rate(summary.prefill_tokens_per_second))
    table.add_row("decode of one stream", rate(summary.decode_tokens_per_second))
    table.add_row("all streams together", rate(summary.throughput_tokens_per_second))
    if summary.goodput_turns_per_second is not None:
        table.add_row(
            "goodput", f"{summary.goodput_turns_per_second:.2f} of {summary.turns_per_second or 0:.2f} turns/s"
        )
    table.add_row("prompt tokens", f"{summary.prompt_tokens}, {summary.cached_tokens} of them from the cache")
    table.add_row("generated tokens", str(summary.completion_tokens))
    if summary.num_calls or summary.num_broken_calls or summary.num_rounds:
        table.add_row("tool calls", f"{summary.num_calls}, {summary.num_broken_calls} more broken")
        table.add_row("turns with results of tools", str(summary.num_rounds))
    if memory_bytes is not None:
        table.add_row("memory of the worker", f"{memory_bytes / 2**20:.0f} MiB")
    return table
