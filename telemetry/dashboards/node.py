"""A board: cores, memory, heat, throttling, and its engine beside what its memory can read."""

from __future__ import annotations

from broker import points
from telemetry.dashboards.parts import ANY, BUSY, HOT, Page, Panel, Query, per_second

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
                        Query(
                            points.ENGINE, 'mean("read_peak_bytes_per_second")', ("worker",), "$tag_worker read peak"
                        ),
                    ),
                    "Weights and KV state read by decode steps, against what memory gives to the best of 1, 2, … "
                    "threads that only read, measured at start.",
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
                    (Query(points.PROCESS, per_second("num_major_faults"), ("node", "worker"), "$tag_worker"),),
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
                        Query(points.DISK, per_second("read_bytes"), ("node", "device"), "$tag_node $tag_device read"),
                        Query(
                            points.DISK,
                            per_second("written_bytes"),
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
                            per_second("received_bytes"),
                            ("node", "interface"),
                            "$tag_interface received",
                        ),
                        Query(points.NETWORK, per_second("sent_bytes"), ("node", "interface"), "$tag_interface sent"),
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
