"""How a model answers: latency, rates, its cache, errors."""

from __future__ import annotations

from typing import get_args

from broker import points
from broker.messages import RecomputedFor
from telemetry.dashboards.parts import ANY, BUSY, Page, Panel, Query

MODEL = Page(
    "turnpike-model",
    "Turnpike · Model",
    "How a model answers: latency, rates, the cache, errors.",
    (("model", points.ENGINE),),
    (
        (
            "Latency",
            (
                Panel(
                    "Time to first token",
                    "s",
                    (
                        Query(points.TURN, 'percentile("ttft_seconds", 50)', ("model",), "$tag_model p50"),
                        Query(points.TURN, 'percentile("ttft_seconds", 95)', ("model",), "$tag_model p95"),
                    ),
                    "From a turn's publish to its first token's choice.",
                ),
                Panel(
                    "Time per output token",
                    "s",
                    (
                        Query(points.TURN, 'percentile("tpot_seconds", 50)', ("model",), "$tag_model p50"),
                        Query(points.TURN, 'percentile("tpot_seconds", 95)', ("model",), "$tag_model p95"),
                    ),
                ),
                Panel(
                    "Queue wait",
                    "s",
                    (Query(points.TURN, 'percentile("queue_wait_seconds", 95)', ("model",), "$tag_model p95"),),
                ),
            ),
        ),
        (
            "Rates",
            (
                Panel(
                    "Prefill of a turn",
                    "tokens/s",
                    (Query(points.TURN, 'median("prefill_tokens_per_second")', ("model", "worker"), "$tag_worker"),),
                    "Prompt tokens not from the cache.",
                ),
                Panel(
                    "Decode of a turn",
                    "tokens/s",
                    (Query(points.TURN, 'median("decode_tokens_per_second")', ("model", "worker"), "$tag_worker"),),
                ),
                Panel(
                    "Decode of the engine",
                    "tokens/s",
                    (Query(points.ENGINE, 'mean("decode_tokens_per_second")', ("worker",), "$tag_worker"),),
                    "All sequences of a batch together.",
                    is_stacked=True,
                ),
                Panel(
                    "Batch",
                    "none",
                    (Query(points.ENGINE, 'mean("batch_size")', ("worker",), "$tag_worker"),),
                    "Sequences in a decode step.",
                ),
                Panel(
                    "Variation of decode (CV)",
                    "percentunit",
                    (
                        Query(
                            points.TURN,
                            'stddev("decode_tokens_per_second") / mean("decode_tokens_per_second")',
                            ("model",),
                            "$tag_model",
                        ),
                    ),
                    "Standard deviation ÷ mean over the interval's turns.",
                ),
                Panel(
                    "Step",
                    "s",
                    (
                        Query(points.ENGINE, 'mean("step_seconds")', ("worker",), "$tag_worker mean"),
                        Query(points.ENGINE, 'max("max_step_seconds")', ("worker",), "$tag_worker max"),
                    ),
                ),
            ),
        ),
        (
            "Cache, energy, errors",
            (
                Panel(
                    "Share of prompts from the cache",
                    "percentunit",
                    (Query(points.TURN, 'sum("cached_tokens") / sum("prompt_tokens")', ("model",), "$tag_model"),),
                    maximum=1.0,
                ),
                Panel(
                    "KV cells in use",
                    "percentunit",
                    (Query(points.ENGINE, 'mean("num_cells_used") / mean("num_cells")', ("worker",), "$tag_worker"),),
                    maximum=1.0,
                    thresholds=BUSY,
                ),
                Panel(
                    "Cached prompt tokens by where they were",
                    "short",
                    tuple(
                        Query(points.TURN, f'sum("cached_in_{tier}_tokens")', (), name)
                        for tier, name in (
                            ("context", "context"),
                            ("ram", "RAM"),
                            ("board", "board"),
                            ("disk", "disk"),
                            ("peer", "another worker"),
                        )
                    ),
                ),
                Panel(
                    "Prompt tokens computed again, by why",
                    "short",
                    tuple(
                        Query(points.TURN, f'sum("recomputed_{why}_tokens")', (), why)
                        for why in get_args(RecomputedFor)
                    ),
                    thresholds=ANY,
                ),
                Panel(
                    "Conversations at rest",
                    "none",
                    (
                        Query(points.ENGINE, 'mean("num_parked")', ("worker",), "$tag_worker RAM"),
                        Query(points.ENGINE, 'mean("num_on_disk")', ("worker",), "$tag_worker disk"),
                    ),
                ),
                Panel(
                    "Fetching a state from another worker",
                    "s",
                    (
                        Query(points.TURN, 'mean("fetch_seconds")', ("worker",), "$tag_worker mean"),
                        Query(points.TURN, 'max("fetch_seconds")', ("worker",), "$tag_worker longest"),
                    ),
                ),
                Panel(
                    "Energy of a token",
                    "joule",
                    (Query(points.TURN, 'sum("joules") / sum("completion_tokens")', ("model",), "$tag_model"),),
                    "A turn's share of the node's watts over its steps, by its generated tokens.",
                ),
                Panel(
                    "Failed turns",
                    "none",
                    (Query(points.TURN, 'count("is_failed")', ("model",), "$tag_model", '"is_failed" = true'),),
                    thresholds=ANY,
                ),
                Panel(
                    "Turns that were begun anew",
                    "none",
                    (Query(points.TURN, 'sum("attempt")', ("model",), "$tag_model"),),
                ),
            ),
        ),
        (
            "Tools and thoughts",
            (
                Panel(
                    "Tool calls",
                    "none",
                    (Query(points.TURN, 'sum("num_calls")', ("model",), "$tag_model"),),
                    "Whole ones, which somebody may run.",
                ),
                Panel(
                    "Broken tool calls, by why",
                    "none",
                    tuple(
                        Query(
                            points.TURN, f'sum("{name}")', (), name[len("broken_") : -len("_calls")].replace("_", " ")
                        )
                        for name in points.TURN.fields
                        if name.startswith("broken_")
                    ),
                    "They came as text.",
                    thresholds=ANY,
                ),
                Panel(
                    "Share of thoughts in answers",
                    "percentunit",
                    (
                        Query(
                            points.TURN, 'sum("reasoning_tokens") / sum("completion_tokens")', ("model",), "$tag_model"
                        ),
                    ),
                    maximum=1.0,
                ),
            ),
        ),
        (
            "Turns",
            (
                Panel(
                    "Last turns",
                    "",
                    (),
                    kind="table",
                    width=24,
                    table_query='SELECT "model", "worker", "outcome", "prompt_tokens", "cached_tokens", '
                    '"completion_tokens", "ttft_seconds", "decode_tokens_per_second" FROM "turn" '
                    'WHERE $timeFilter AND "model" =~ /^$model$/ ORDER BY time DESC LIMIT 20',
                ),
            ),
        ),
    ),
)
