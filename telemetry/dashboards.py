"""What Grafana shows and watches for: dashboards and alerts as data. `telemetry.grafana` makes Grafana's files of it.

Every query is InfluxQL, which InfluxDB 1, 2 and 3 Core all answer, and every name in it is checked against
`broker.points`, so that a field that was renamed cannot leave an empty panel behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from broker import points
from broker.messages import RecomputedFor
from broker.points import Measurement

_QUOTED = re.compile(r'"(\w+)"')


@dataclass(frozen=True)
class Query:
    """One line of a panel. `what` is the selection; `by` are the tags that make a series each."""

    measurement: Measurement
    what: str
    by: tuple[str, ...] = ()
    alias: str = ""
    where: str = ""
    is_total: bool = False
    """The sum over all series of each one's last value, or what `what` says of it."""

    def text(self, filters: str) -> str:
        """The InfluxQL; raises LookupError for a name that the measurement does not have."""
        conditions = " AND ".join(part for part in ("$timeFilter", filters, self.where) if part)
        name = self.measurement.name
        if self.is_total:
            inner = f'SELECT {self.what} AS "value" FROM "{name}" WHERE {conditions} GROUP BY {_names(self.by)}'
            text = f'SELECT sum("value") FROM ({inner})'
        else:
            by = f", {_names(self.by)}" if self.by else ""
            text = f'SELECT {self.what} FROM "{name}" WHERE {conditions} GROUP BY time($__interval){by} fill(none)'
        self._check(f"{self.what} {conditions} {_names(self.by)}")
        return text

    def _check(self, text: str) -> None:
        known = {*self.measurement.tags, *self.measurement.fields}
        for name in _QUOTED.findall(text):
            if name not in known:
                raise LookupError(f"{self.measurement.name} has no {name!r}: {text}")


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


@dataclass(frozen=True)
class Panel:
    """A panel: time series unless it is a `stat` or a `table`."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""
    kind: str = "timeseries"
    width: int = 8
    thresholds: tuple[tuple[float, str], ...] = ()
    """From which value on which colour."""
    maximum: float | None = None
    link: str = ""
    """The dashboard that a click leads to."""
    is_stacked: bool = False
    table_query: str = ""


@dataclass(frozen=True)
class Page:
    """A dashboard; `variables` are the tags that it is filtered by, with the measurement that knows their values."""

    uid: str
    title: str
    description: str
    variables: tuple[tuple[str, Measurement], ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def _per_second(field: str) -> str:
    return f'non_negative_derivative(mean("{field}"), 1s)'


HOT = ((0.0, "green"), (75.0, "yellow"), (82.0, "red"))
"""A Pi 5 slows down from 80 °C on, and hard from 85."""
BUSY = ((0.0, "green"), (0.8, "yellow"), (0.95, "red"))
QUEUED = ((0.0, "green"), (10.0, "yellow"), (100.0, "red"))
ANY = ((0.0, "green"), (1.0, "red"))

CLUSTER = Page(
    "turnpike-cluster",
    "Turnpike · Cluster",
    "Nodes, heat, watts, queues and tokens of all models.",
    (),
    (
        (
            "Now",
            (
                Panel(
                    "Workers",
                    "none",
                    (Query(points.WORKERS, 'last("num_workers")', ("model",), is_total=True),),
                    kind="stat",
                    width=4,
                    thresholds=((0.0, "red"), (1.0, "green")),
                ),
                Panel(
                    "Turns queued",
                    "none",
                    (Query(points.QUEUE, 'last("num_pending")', ("model", "priority"), is_total=True),),
                    kind="stat",
                    width=4,
                    thresholds=QUEUED,
                ),
                Panel(
                    "Decode",
                    "tokens/s",
                    (Query(points.ENGINE, 'last("decode_tokens_per_second")', ("worker",), is_total=True),),
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "Watts",
                    "watt",
                    (Query(points.POWER, 'last("watts")', ("node", "source"), is_total=True),),
                    "What the boards say that they draw; a Pi's PMIC estimates.",
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "Hottest",
                    "celsius",
                    (Query(points.TEMPERATURE, 'max("celsius")'),),
                    kind="stat",
                    width=4,
                    thresholds=HOT,
                    link="turnpike-node",
                ),
                Panel(
                    "Dead letters",
                    "none",
                    (
                        Query(
                            points.STREAM,
                            'last("num_messages")',
                            ("stream",),
                            where="\"stream\" = 'DEAD'",
                            is_total=True,
                        ),
                    ),
                    "Turns given up on: `turnpike dead list`.",
                    kind="stat",
                    width=4,
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
                        Query(points.BROKER, _per_second("received_bytes"), (), "received"),
                        Query(points.BROKER, _per_second("sent_bytes"), (), "sent"),
                    ),
                ),
            ),
        ),
    ),
)

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

NODE = Page(
    "turnpike-node",
    "Turnpike · Node",
    "A board: cores, memory, pressure, heat, throttling, and how near its engine is to what its memory can read.",
    (("node", points.SYSTEM),),
    (
        (
            "Cores",
            (
                Panel(
                    "Busy by core",
                    "percentunit",
                    (Query(points.CPU, 'mean("busy_ratio")', ("node", "cpu"), "$tag_node $tag_cpu"),),
                    maximum=1.0,
                    thresholds=BUSY,
                ),
                Panel(
                    "Frequency",
                    "hertz",
                    (Query(points.CPU, 'mean("frequency_hertz")', ("node",), "$tag_node", "\"cpu\" = 'all'"),),
                ),
                Panel(
                    "Load",
                    "none",
                    (
                        Query(points.SYSTEM, 'mean("load1")', ("node",), "$tag_node 1 min"),
                        Query(points.SYSTEM, 'last("num_cores")', ("node",), "$tag_node cores"),
                    ),
                ),
            ),
        ),
        (
            "Heat and power",
            (
                Panel(
                    "Temperature",
                    "celsius",
                    (Query(points.TEMPERATURE, 'max("celsius")', ("node", "sensor"), "$tag_node $tag_sensor"),),
                    thresholds=HOT,
                    width=6,
                ),
                Panel(
                    "Throttling",
                    "none",
                    (
                        Query(
                            points.THROTTLING, 'count("bits")', ("node",), "$tag_node throttled", '"throttled" = true'
                        ),
                        Query(
                            points.THROTTLING,
                            'count("bits")',
                            ("node",),
                            "$tag_node under-voltage",
                            '"undervoltage" = true',
                        ),
                    ),
                    "Samples of an interval in which the firmware held the board back.",
                    thresholds=ANY,
                    width=6,
                ),
                Panel(
                    "Power",
                    "watt",
                    (Query(points.POWER, 'mean("watts")', ("node", "source"), "$tag_node $tag_source"),),
                    width=6,
                ),
                Panel(
                    "Fan",
                    "percentunit",
                    (Query(points.FAN, 'mean("level_ratio")', ("node", "fan"), "$tag_node $tag_fan"),),
                    maximum=1.0,
                    width=6,
                ),
            ),
        ),
        (
            "Memory and pressure",
            (
                Panel(
                    "Memory",
                    "bytes",
                    (
                        Query(points.MEMORY, 'mean("used_bytes")', ("node",), "$tag_node used"),
                        Query(points.MEMORY, 'mean("cached_bytes")', ("node",), "$tag_node cached"),
                        Query(points.MEMORY, 'mean("swap_used_bytes")', ("node",), "$tag_node swap"),
                    ),
                ),
                Panel(
                    "KV states at rest",
                    "bytes",
                    (
                        Query(points.ENGINE, 'mean("parked_bytes")', ("worker",), "$tag_worker in RAM"),
                        Query(points.ENGINE, 'mean("disk_bytes")', ("worker",), "$tag_worker on disk"),
                        Query(points.ENGINE, 'sum("given_bytes")', ("worker",), "$tag_worker given to others"),
                    ),
                ),
                Panel(
                    "Pressure",
                    "percentunit",
                    (
                        Query(
                            points.PRESSURE,
                            'mean("some_ratio")',
                            ("node", "scope", "resource"),
                            "$tag_node $tag_scope $tag_resource",
                        ),
                    ),
                    "Share of time in which some task waited.",
                    maximum=1.0,
                ),
                Panel(
                    "Memory of the workers",
                    "bytes",
                    (
                        Query(points.PROCESS, 'mean("rss_bytes")', ("node", "worker"), "$tag_worker"),
                        Query(points.CGROUP, 'mean("memory_bytes")', ("node", "worker"), "$tag_worker cgroup"),
                    ),
                ),
            ),
        ),
        (
            "Engine",
            (
                Panel(
                    "Roofline",
                    "Bps",
                    (
                        Query(points.ENGINE, 'mean("read_bytes_per_second")', ("worker",), "$tag_worker reads"),
                        Query(points.ENGINE, 'mean("peak_bytes_per_second")', ("worker",), "$tag_worker copy peak"),
                    ),
                    "Weights and KV state read by decode steps, against a copy by all threads, measured at start.",
                ),
                Panel(
                    "CPU of the workers",
                    "none",
                    (Query(points.PROCESS, 'mean("cpu_ratio")', ("node", "worker"), "$tag_worker"),),
                    "In cores.",
                ),
                Panel(
                    "Page faults that read a disk",
                    "none",
                    (Query(points.PROCESS, _per_second("num_major_faults"), ("node", "worker"), "$tag_worker"),),
                    "Per second: a model that does not fit into memory.",
                ),
            ),
        ),
        (
            "Disk, network, telemetry",
            (
                Panel(
                    "Disk",
                    "Bps",
                    (
                        Query(points.DISK, _per_second("read_bytes"), ("node", "device"), "$tag_node $tag_device read"),
                        Query(
                            points.DISK,
                            _per_second("written_bytes"),
                            ("node", "device"),
                            "$tag_node $tag_device written",
                        ),
                    ),
                ),
                Panel(
                    "Network",
                    "Bps",
                    (
                        Query(
                            points.NETWORK,
                            _per_second("received_bytes"),
                            ("node", "interface"),
                            "$tag_interface received",
                        ),
                        Query(points.NETWORK, _per_second("sent_bytes"), ("node", "interface"), "$tag_interface sent"),
                    ),
                ),
                Panel(
                    "The sidecar's own cost",
                    "percentunit",
                    (Query(points.SIDECAR, 'mean("cpu_ratio")', ("node",), "$tag_node"),),
                    "CPU of one core.",
                ),
            ),
        ),
    ),
)

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

PAGES = (CLUSTER, MODEL, NODE, EXPERIMENT)
ANNOTATIONS = (
    ("Workers start and stop", "worker s.*", "green"),
    ("Workers lost", "worker lost", "red"),
    ("Throttling", "throttling began", "orange"),
    ("Runs", "run .*", "blue"),
)


# --- Alerts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alert:
    """Fires for each series whose last value is `above` a bound for `lasting`."""

    uid: str
    title: str
    query: Query
    above: float
    lasting: str
    summary: str
    is_below: bool = False
    on_no_data: str = "OK"


ALERTS = (
    Alert(
        "turnpike-queue-age",
        "Turns wait too long",
        Query(points.QUEUE, 'last("oldest_seconds")', ("model",)),
        300.0,
        "2m",
        "The oldest turn of {{ $labels.model }} has waited for more than five minutes.",
    ),
    Alert(
        "turnpike-throttling",
        "A board is held back",
        Query(points.THROTTLING, 'count("bits")', ("node",), where='"throttled" = true'),
        0.0,
        "1m",
        "{{ $labels.node }} is throttled: too hot, or too weak a supply. Its figures are not those of the board.",
    ),
    Alert(
        "turnpike-no-worker",
        "A model without a worker",
        Query(points.QUEUE, 'last("num_waiting_pulls") + last("num_in_work")', ("model",)),
        1.0,
        "2m",
        "Nobody asks for the turns of {{ $labels.model }}, and nobody works on one.",
        is_below=True,
    ),
    Alert(
        "turnpike-store",
        "JetStream's disk fills up",
        Query(points.BROKER, 'last("store_bytes") / last("max_store_bytes")', ("server",)),
        0.8,
        "5m",
        "The broker's store holds more than four fifths of what it may.",
    ),
    Alert(
        "turnpike-dead-letters",
        "Turns were given up on",
        Query(points.STREAM, 'last("num_messages")', ("stream",), where="\"stream\" = 'DEAD'"),
        0.0,
        "0s",
        "There are dead letters: `turnpike dead list`.",
    ),
    Alert(
        "turnpike-points-lost",
        "Telemetry loses points",
        Query(points.SIDECAR, 'last("num_dropped") + last("num_expired")', ("node",)),
        0.0,
        "5m",
        "Points of {{ $labels.node }} were dropped or expired before they were written.",
    ),
)
