"""The first page: nodes, heat, watts, queues and tokens of all models."""

from __future__ import annotations

from broker import points
from telemetry.dashboards.parts import ANY, BUSY, HOT, QUEUED, Page, Panel, Query, per_second, stat

CLUSTER = Page(
    "turnpike-cluster",
    "Turnpike · Cluster",
    "Nodes, heat, watts, queues and tokens of all models.",
    (),
    (
        (
            "Now",
            (
                stat(
                    "Workers",
                    "none",
                    Query(points.WORKERS, 'last("num_workers")', ("model",), is_total=True),
                    thresholds=((0.0, "red"), (1.0, "green")),
                ),
                stat(
                    "Turns queued",
                    "none",
                    Query(points.QUEUE, 'last("num_pending")', ("model", "priority"), is_total=True),
                    thresholds=QUEUED,
                ),
                stat(
                    "Decode",
                    "tokens/s",
                    Query(points.ENGINE, 'last("decode_tokens_per_second")', ("worker",), is_total=True),
                ),
                stat(
                    "Watts",
                    "watt",
                    Query(points.POWER, 'last("watts")', ("node", "source"), is_total=True),
                    "What the boards say that they draw; a Pi's PMIC estimates.",
                ),
                stat(
                    "Hottest",
                    "celsius",
                    Query(points.TEMPERATURE, 'max("celsius")'),
                    thresholds=HOT,
                    link="turnpike-node",
                ),
                stat(
                    "Dead letters",
                    "none",
                    Query(
                        points.STREAM,
                        'last("num_messages")',
                        ("stream",),
                        where="\"stream\" = 'DEAD'",
                        is_total=True,
                    ),
                    "Turns given up on: `turnpike dead list`.",
                    thresholds=ANY,
                ),
            ),
        ),
        (
            "Work",
            (
                Panel(
                    "Tokens by worker",
                    "tokens/s",
                    (Query(points.ENGINE, 'mean("decode_tokens_per_second")', ("node", "worker"), "$tag_worker"),),
                    link="turnpike-model",
                    is_stacked=True,
                ),
                Panel(
                    "Queue by model",
                    "none",
                    (
                        Query(points.QUEUE, 'max("num_pending")', ("model", "priority"), "$tag_model $tag_priority"),
                        Query(points.QUEUE, 'max("num_in_work")', ("model",), "$tag_model in work"),
                    ),
                    link="turnpike-model",
                ),
                Panel(
                    "Oldest turn queued",
                    "s",
                    (Query(points.QUEUE, 'max("oldest_seconds")', ("model",), "$tag_model"),),
                ),
                Panel(
                    "Turns ended",
                    "none",
                    (
                        Query(points.TURN, 'count("is_failed")', ("model",), "$tag_model"),
                        Query(points.TURN, 'count("is_failed")', (), "failed", '"is_failed" = true'),
                    ),
                    "By interval.",
                ),
                Panel(
                    "Workers by model",
                    "none",
                    (Query(points.WORKERS, 'last("num_workers")', ("model",), "$tag_model"),),
                ),
                Panel(
                    "Expected wait",
                    "s",
                    (Query(points.WORKERS, 'max("expected_wait_seconds")', ("model",), "$tag_model"),),
                ),
            ),
        ),
        (
            "Nodes",
            (
                Panel(
                    "CPU",
                    "percentunit",
                    (Query(points.CPU, 'mean("busy_ratio")', ("node",), "$tag_node", "\"cpu\" = 'all'"),),
                    maximum=1.0,
                    thresholds=BUSY,
                    link="turnpike-node",
                ),
                Panel(
                    "Temperature",
                    "celsius",
                    (Query(points.TEMPERATURE, 'max("celsius")', ("node",), "$tag_node"),),
                    thresholds=HOT,
                    link="turnpike-node",
                ),
                Panel(
                    "Power",
                    "watt",
                    (Query(points.POWER, 'mean("watts")', ("node", "source"), "$tag_node $tag_source"),),
                    is_stacked=True,
                    link="turnpike-node",
                ),
            ),
        ),
        (
            "Broker",
            (
                Panel(
                    "Streams",
                    "bytes",
                    (Query(points.STREAM, 'last("bytes")', ("stream",), "$tag_stream"),),
                ),
                Panel(
                    "Server",
                    "bytes",
                    (
                        Query(points.BROKER, 'last("rss_bytes")', (), "memory"),
                        Query(points.BROKER, 'last("store_bytes")', (), "store"),
                    ),
                ),
                Panel(
                    "Traffic",
                    "Bps",
                    (
                        Query(points.BROKER, per_second("received_bytes"), (), "received"),
                        Query(points.BROKER, per_second("sent_bytes"), (), "sent"),
                    ),
                ),
            ),
        ),
    ),
)
