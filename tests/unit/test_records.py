from __future__ import annotations

import os
from pathlib import Path

from broker.messages import Done, Failed, Timings, Usage
from producers.records import TurnRecord, summarize
from telemetry.resources import process_memory


def test_a_runs_figures_by_hand() -> None:
    done = Done("stop", "x", (1, 2, 3), Usage(100, 60, 3), Timings(0.1, 2.0, 1.0), "w")
    records = [
        TurnRecord("c", "t1", 10.0, 12.0, done, (10.5, 11.0, 11.5)),
        TurnRecord("c", "t2", 10.0, 12.0, Failed("deadline", "late")),
    ]
    summary = summarize(records, 4.0)
    assert (summary.num_turns, summary.num_failed) == (2, 1)
    assert summary.ttft_p50_seconds == 0.5
    assert summary.tpot_p50_seconds == 0.5
    assert summary.itl_max_seconds == 0.5
    assert summary.prefill_tokens_per_second == 20.0
    assert summary.decode_tokens_per_second == 2.0
    assert summary.throughput_tokens_per_second == 0.75


def test_a_run_without_turns_has_no_rates() -> None:
    summary = summarize([], 1.0)
    assert summary.ttft_p50_seconds is None
    assert summary.prefill_tokens_per_second is None


def test_our_own_memory_is_measured_and_a_missing_process_has_none(tmp_path: Path) -> None:
    own = process_memory(os.getpid())
    assert own is not None
    assert own.rss_bytes > 10_000_000
    assert own.pss_bytes is None or 0 < own.pss_bytes <= own.rss_bytes
    assert process_memory(1, tmp_path) is None
