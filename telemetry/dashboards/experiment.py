"""Load runs beside each other."""

from __future__ import annotations

from broker import points
from telemetry.dashboards.parts import Page, Panel, Query

_BY_RUN = ("run", "model")
_RUN = "$tag_run $tag_model"
EXPERIMENT = Page(
    "turnpike-experiment",
    "Turnpike · Experiment",
    "A load run beside another: choose two or more.",
    (("run", points.TURN),),
    (
        (
            "Runs",
            (
                Panel(
                    "Means",
                    "",
                    (),
                    kind="table",
                    width=24,
                    table_query='SELECT count("is_failed") AS "turns", mean("ttft_seconds") AS "TTFT", '
                    'percentile("ttft_seconds", 95) AS "TTFT p95", mean("tpot_seconds") AS "TPOT", '
                    'mean("prefill_tokens_per_second") AS "prefill tokens/s", '
                    'mean("decode_tokens_per_second") AS "decode tokens/s", sum("completion_tokens") AS "tokens", '
                    'sum("joules") / sum("completion_tokens") AS "J/token" FROM "turn" '
                    'WHERE $timeFilter AND "run" =~ /^$run$/ GROUP BY "run", "model"',
                ),
            ),
        ),
        (
            "Side by side",
            (
                Panel("Time to first token", "s", (Query(points.TURN, 'mean("ttft_seconds")', _BY_RUN, _RUN),)),
                Panel("Time per output token", "s", (Query(points.TURN, 'mean("tpot_seconds")', _BY_RUN, _RUN),)),
                Panel("Turns ended", "none", (Query(points.TURN, 'count("is_failed")', _BY_RUN, _RUN),)),
                Panel(
                    "Prefill",
                    "tokens/s",
                    (Query(points.TURN, 'mean("prefill_tokens_per_second")', _BY_RUN, _RUN),),
                ),
                Panel("Decode", "tokens/s", (Query(points.TURN, 'mean("decode_tokens_per_second")', _BY_RUN, _RUN),)),
                Panel(
                    "Share of prompts from the cache",
                    "percentunit",
                    (Query(points.TURN, 'sum("cached_tokens") / sum("prompt_tokens")', _BY_RUN, _RUN),),
                    maximum=1.0,
                ),
            ),
        ),
    ),
)
