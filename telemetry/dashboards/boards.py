"""Which models are on which boards: what is loaded, what is loading, what that costs and who waits for it."""

from __future__ import annotations

from broker import points
from telemetry.dashboards.parts import ANY, BUSY, Page, Panel, Query, stat

_MODEL = ("node", "model")
_EACH = "$tag_node $tag_model"
_SWAPPED = "\"made_room_for\" != '-'"
BOARDS = Page(
    "turnpike-boards",
    "Turnpike · Boards",
    "Which models are loaded where, swaps, time lost to loading, and turns that waited for a load.",
    (("node", points.BOARD), ("model", points.BOARD_MODEL)),
    (
        (
            "Now",
            (
                stat(
                    "Models loaded",
                    "none",
                    Query(points.BOARD, 'last("num_loaded")', ("node",), is_total=True),
                    "On all boards, each copy counted.",
                ),
                stat(
                    "Loading",
                    "none",
                    Query(points.BOARD, 'last("num_loading")', ("node",), is_total=True),
                ),
                stat(
                    "Cannot be loaded",
                    "none",
                    Query(points.BOARD, 'last("num_broken")', ("node",), is_total=True),
                    "`turnpike top` says why.",
                    thresholds=ANY,
                ),
                stat(
                    "Swaps",
                    "none",
                    Query(points.MODEL_UNLOAD, 'count("stay_seconds")', ("node",), "", _SWAPPED, is_total=True),
                    "Models unloaded for another, in the time that is shown.",
                ),
                stat(
                    "Time lost to loading",
                    "s",
                    Query(points.MODEL_LOAD, 'sum("load_seconds")', ("node",), is_total=True),
                    "Of all boards, in the time that is shown.",
                ),
                stat(
                    "Turns that waited for a load",
                    "none",
                    Query(points.TURN, 'count("load_wait_seconds")', ("model",), is_total=True),
                    "Of those that ended in the time that is shown.",
                ),
            ),
        ),
        (
            "Boards and models",
            (
                Panel(
                    "What is where",
                    "",
                    (),
                    kind="table",
                    width=24,
                    table_query='SELECT last("state") AS "state", last("loaded_ratio") * 100 AS "loaded %", '
                    'last("pin") AS "pin", last("planned_bytes") / 1000000000 AS "memory, GB", '
                    'last("num_in_hand") AS "turns", last("idle_seconds") AS "used, s ago", '
                    'last("load_seconds") AS "a load takes, s" FROM "board_model" '
                    'WHERE $timeFilter AND "node" =~ /^$node$/ AND "model" =~ /^$model$/ GROUP BY "node", "model"',
                ),
                Panel(
                    "Loaded",
                    "percentunit",
                    (Query(points.BOARD_MODEL, 'last("loaded_ratio")', _MODEL, _EACH),),
                    "1 once a model takes turns, how much of its load is done before.",
                    width=12,
                    maximum=1.0,
                ),
                Panel(
                    "Turns in hand",
                    "none",
                    (Query(points.BOARD_MODEL, 'max("num_in_hand")', _MODEL, _EACH),),
                    width=12,
                    is_stacked=True,
                ),
            ),
        ),
        (
            "Swaps",
            (
                Panel(
                    "Swaps by board",
                    "none",
                    (Query(points.MODEL_UNLOAD, 'count("stay_seconds")', _MODEL, _EACH, _SWAPPED),),
                    "Models unloaded for another, by interval.",
                ),
                Panel(
                    "Loads",
                    "none",
                    (
                        Query(
                            points.MODEL_LOAD,
                            'count("load_seconds")',
                            ("node", "model", "outcome"),
                            f"{_EACH} $tag_outcome",
                        ),
                    ),
                    "Also those that failed or were given up, by interval.",
                ),
                Panel(
                    "Time lost to loading by board",
                    "s",
                    (Query(points.MODEL_LOAD, 'sum("load_seconds")', ("node",), "$tag_node"),),
                    "By interval; a load counts where it ends.",
                    is_stacked=True,
                ),
                Panel(
                    "A load takes",
                    "s",
                    (Query(points.MODEL_LOAD, 'max("load_seconds")', _MODEL, _EACH, "\"outcome\" = 'served'"),),
                    "From the start of a worker's process to its first turn.",
                ),
                Panel(
                    "A model had stayed",
                    "s",
                    (Query(points.MODEL_UNLOAD, 'mean("stay_seconds")', _MODEL, _EACH),),
                    "Short ones beside long loads are thrash.",
                ),
                Panel(
                    "A drain takes",
                    "s",
                    (Query(points.MODEL_UNLOAD, 'max("drain_seconds")', _MODEL, _EACH),),
                    "Until the turns in hand of a model that goes are finished.",
                ),
            ),
        ),
        (
            "Who waits",
            (
                Panel(
                    "Turns that waited for a load, by model",
                    "none",
                    (Query(points.TURN, 'count("load_wait_seconds")', ("model",), "$tag_model"),),
                    "By interval, where they end.",
                ),
                Panel(
                    "They waited",
                    "s",
                    (
                        Query(points.TURN, 'median("load_wait_seconds")', ("model",), "$tag_model p50"),
                        Query(points.TURN, 'percentile("load_wait_seconds", 95)', ("model",), "$tag_model p95"),
                    ),
                    "From a turn's publish until its model's worker took turns.",
                ),
                Panel(
                    "Computed again after a swap",
                    "none",
                    (Query(points.TURN, 'sum("recomputed_swapped_tokens")', ("model",), "$tag_model"),),
                    "Tokens of conversations whose state was not kept.",
                ),
            ),
        ),
        (
            "Memory and trouble",
            (
                Panel(
                    "Memory for models",
                    "bytes",
                    (
                        Query(points.BOARD, 'last("memory_bytes")', ("node",), "$tag_node has"),
                        Query(points.BOARD, 'last("planned_bytes")', ("node",), "$tag_node planned"),
                        Query(points.BOARD, 'last("used_bytes")', ("node",), "$tag_node used"),
                        Query(points.BOARD, 'last("kept_bytes")', ("node",), "$tag_node conversations kept"),
                    ),
                    "Mapped files are planned and not in what is used.",
                ),
                Panel(
                    "Something waits for memory",
                    "percentunit",
                    (Query(points.BOARD, 'mean("memory_pressure_ratio")', ("node",), "$tag_node"),),
                    "A board above 20 % loads nothing.",
                    maximum=1.0,
                    thresholds=BUSY,
                ),
                Panel(
                    "Claims lost",
                    "none",
                    (Query(points.BOARD, 'max("num_claims_lost")', ("node",), "$tag_node"),),
                    "Copies of a model that another board had first, since each board's start.",
                ),
                Panel(
                    "Failures to load",
                    "",
                    (),
                    kind="table",
                    width=24,
                    table_query='SELECT "node", "model", "reason", "why", "load_seconds" FROM "model_load" '
                    'WHERE $timeFilter AND "outcome" = \'failed\' AND "node" =~ /^$node$/ AND "model" =~ /^$model$/',
                ),
            ),
        ),
    ),
)
