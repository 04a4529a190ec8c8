"""Every measurement with its tags and fields: what workers and sidecars send and what InfluxDB holds.

A measurement's tags are always all given, and a field always has one type, so that every InfluxDB takes it, 3 Core
included. A field that was not to be had is left out: absent is not zero. docs/telemetry.md is made from this file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from broker.messages import FieldValue, Point

NONE = "-"
"""A tag that does not apply, as the run of what belongs to no load run: InfluxDB has no empty tags."""


@dataclass(frozen=True)
class Field:
    """A field: its type and unit, and what it is, with its source."""

    kind: Literal["float", "int", "bool", "str"]
    unit: str
    meaning: str


class UnknownField(ValueError):
    """A point that is not in this file: `measurement`, `name`."""

    def __init__(self, measurement: str, name: str) -> None:
        self.measurement, self.name = measurement, name
        super().__init__(f"{measurement}: {name!r} is not one of its tags and fields")


def _clean(tag: str) -> str:
    """A tag as line protocol can carry it: on one line, not empty, without a backslash at its end."""
    return " ".join(tag.split()).rstrip("\\")[:256] or "-"


@dataclass(frozen=True)
class Measurement:
    """A name, its tags and its fields."""

    name: str
    meaning: str
    tags: tuple[str, ...]
    fields: Mapping[str, Field]

    def point(self, time: int, tags: Mapping[str, str], fields: Mapping[str, FieldValue | None]) -> Point | None:
        """A point at `time`, nanoseconds since the epoch; None when every field is absent.

        Raises UnknownField for what is not declared, and ValueError for a number that is not finite.
        """
        if set(tags) != set(self.tags):
            raise UnknownField(self.name, ", ".join(sorted(set(tags) ^ set(self.tags))))
        found: dict[str, FieldValue] = {}
        for name, value in fields.items():
            if name not in self.fields:
                raise UnknownField(self.name, name)
            if value is not None:
                found[name] = self._converted(name, value)
        return Point(self.name, {name: _clean(value) for name, value in tags.items()}, found, time) if found else None

    def _converted(self, name: str, value: FieldValue) -> FieldValue:
        kind = self.fields[name].kind
        if kind == "float" and not isinstance(value, str):
            value = float(value)
            if not math.isfinite(value):
                raise ValueError(f"{self.name}.{name}: {value} cannot be stored")
        if type(value).__name__ != kind:
            raise ValueError(f"{self.name}.{name}: {value!r} is no {kind}")
        return value


def _float(unit: str, meaning: str) -> Field:
    return Field("float", unit, meaning)


def _int(unit: str, meaning: str) -> Field:
    return Field("int", unit, meaning)


def _bool(meaning: str) -> Field:
    return Field("bool", "", meaning)


def _str(meaning: str) -> Field:
    return Field("str", "", meaning)


_WORKER_TAGS = ("node", "model", "quantization", "worker")

# --- The board, by the sidecar ---------------------------------------------------------------------------------------

CPU = Measurement(
    "cpu",
    "A core, or `all` of them, over the time since the sample before, the first time since boot. /proc/stat, cpufreq",
    ("node", "cpu"),
    {
        "busy_ratio": _float("ratio", "time not idle and not waiting for a disk"),
        "user_ratio": _float("ratio", "time in programs, nice ones among them"),
        "system_ratio": _float("ratio", "time in the kernel, interrupts among it"),
        "iowait_ratio": _float("ratio", "time waiting for a disk"),
        "frequency_hertz": _float("Hz", "scaling_cur_freq; of `all` the mean"),
    },
)
SYSTEM = Measurement(
    "system",
    "The node as a whole. /proc/loadavg, /proc/uptime",
    ("node",),
    {
        "load1": _float("processes", "mean number running or waiting over 1 min"),
        "load5": _float("processes", "the same over 5 min"),
        "load15": _float("processes", "the same over 15 min"),
        "uptime_seconds": _float("s", "since the node booted"),
        "num_cores": _int("cores", "logical cores that are online"),
    },
)
MEMORY = Measurement(
    "memory",
    "The node's memory. /proc/meminfo, /proc/vmstat",
    ("node",),
    {
        "total_bytes": _int("B", "MemTotal"),
        "available_bytes": _int("B", "MemAvailable: what programs could get without swapping"),
        "used_bytes": _int("B", "total less available"),
        "cached_bytes": _int("B", "page cache; a mapped model is in it"),
        "swap_total_bytes": _int("B", "SwapTotal"),
        "swap_used_bytes": _int("B", "SwapTotal less SwapFree"),
        "swapped_in_bytes": _int("B", "since boot, counting up"),
        "swapped_out_bytes": _int("B", "since boot, counting up"),
    },
)
DISK = Measurement(
    "disk",
    "A block device. /proc/diskstats",
    ("node", "device"),
    {
        "read_bytes": _int("B", "since boot, counting up"),
        "written_bytes": _int("B", "since boot, counting up"),
        "busy_seconds": _float("s", "time with something under way, since boot, counting up"),
    },
)
FILESYSTEM = Measurement(
    "filesystem",
    "The file system of the sidecar's data directory. statvfs",
    ("node", "path"),
    {"total_bytes": _int("B", "size"), "free_bytes": _int("B", "what a user may still fill")},
)
NETWORK = Measurement(
    "network",
    "A network interface, loopback left out. /proc/net/dev",
    ("node", "interface"),
    {
        "received_bytes": _int("B", "since boot, counting up"),
        "sent_bytes": _int("B", "since boot, counting up"),
        "num_errors": _int("packets", "in and out, since boot, counting up"),
        "num_dropped": _int("packets", "in and out, since boot, counting up"),
    },
)
PRESSURE = Measurement(
    "pressure",
    "Pressure stall information, of the node or the container. /proc/pressure, cgroup v2 *.pressure",
    ("node", "scope", "resource"),
    {
        "some_ratio": _float("ratio", "time in which at least one task waited, over 10 s"),
        "full_ratio": _float("ratio", "time in which all tasks waited, over 10 s"),
        "some_seconds": _float("s", "the first, counting up"),
        "full_seconds": _float("s", "the second, counting up"),
    },
)
TEMPERATURE = Measurement(
    "temperature",
    "A thermal zone or hardware monitor. /sys/class/thermal, /sys/class/hwmon",
    ("node", "sensor"),
    {"celsius": _float("°C", "as the sensor says")},
)
FAN = Measurement(
    "fan",
    "A fan. /sys/class/hwmon, /sys/class/thermal/cooling_device*",
    ("node", "fan"),
    {
        "rpm": _float("1/min", "fan*_input"),
        "level_ratio": _float("ratio", "cur_state ÷ max_state of the cooling device"),
    },
)
THROTTLING = Measurement(
    "throttling",
    "What the Raspberry Pi's firmware holds back. get_throttled in sysfs, else `vcgencmd get_throttled`",
    ("node",),
    {
        "bits": _int("bits", "the firmware's word"),
        "undervoltage": _bool("bit 0: under-voltage now"),
        "frequency_capped": _bool("bit 1: frequency capped now"),
        "throttled": _bool("bit 2: throttled now"),
        "soft_temperature_limit": _bool("bit 3: soft temperature limit now"),
        "undervoltage_since_boot": _bool("bit 16"),
        "frequency_capped_since_boot": _bool("bit 17"),
        "throttled_since_boot": _bool("bit 18"),
        "soft_temperature_limit_since_boot": _bool("bit 19"),
    },
)
POWER = Measurement(
    "power",
    "Watts by source: `pmic` sums a Pi 5's rails (`vcgencmd pmic_read_adc`), `rapl` is x86's package counter",
    ("node", "source"),
    {
        "watts": _float("W", "now (pmic), or the mean since the sample before (rapl)"),
        "is_estimated": _bool("the board estimates: a PMIC does not see what its USB ports and its own losses take"),
    },
)
WEAR = Measurement(
    "wear",
    "How worn an eMMC or SD card says it is. /sys/block/mmcblk*/device: life_time, pre_eol_info",
    ("node", "device"),
    {
        "used_ratio": _float("ratio", "upper bound of the life used, the worse of the two kinds of memory"),
        "pre_end_of_life": _int("level", "reserved blocks: 1 normal, 2 over 80 % used, 3 urgent"),
    },
)
PROCESS = Measurement(
    "process",
    "A worker's process on this node. psutil: /proc/PID",
    ("node", "worker"),
    {
        "cpu_ratio": _float("cores", "CPU seconds per second since the sample before"),
        "rss_bytes": _int("B", "resident, a mapped model among it"),
        "num_minor_faults": _int("faults", "since its start, counting up"),
        "num_major_faults": _int("faults", "the same that had to read a disk"),
        "num_threads": _int("threads", ""),
        "num_voluntary_switches": _int("switches", "since its start, counting up"),
        "num_involuntary_switches": _int("switches", "since its start, counting up"),
    },
)
CGROUP = Measurement(
    "cgroup",
    "A worker's cgroup: `scope` is `pod` in one of Kubernetes, else `node`. cgroup v1 and v2",
    ("node", "scope", "worker"),
    {
        "cpu_seconds": _float("s", "CPU time used, counting up"),
        "throttled_seconds": _float("s", "time in which the CPU limit held it back, counting up"),
        "cpu_limit_cores": _float("cores", "the tightest of its own and those above it; absent without a limit"),
        "memory_bytes": _int("B", "charged to it, page cache among it"),
        "memory_limit_bytes": _int("B", "the tightest of its own and those above it; absent without a limit"),
        "num_oom_kills": _int("kills", "counting up"),
    },
)
SIDECAR = Measurement(
    "sidecar",
    "What telemetry itself costs and what became of the points",
    ("node",),
    {
        "cpu_ratio": _float("cores", "CPU seconds per second since the sample before"),
        "rss_bytes": _int("B", "resident"),
        "sample_seconds": _float("s", "what taking the last sample took"),
        "num_sent": _int("points", "handed to NATS since its start"),
        "num_dropped": _int("points", "dropped at the source, its buffer full while NATS was away"),
        "num_written": _int("points", "written to the database by this sidecar since its start"),
        "num_rejected": _int("points", "refused by the database, kept in `rejected`"),
        "num_expired": _int("batches", "gone from TELEMETRY before anybody wrote them, since its start"),
        "write_seconds": _float("s", "what the last write took"),
    },
)
REJECTED = Measurement(
    "rejected",
    "A point that the database refused: the dead letters of telemetry",
    ("node", "of"),
    {"line": _str("the point in line protocol, up to 2,000 characters"), "reason": _str("the database's words")},
)

# --- The queue, by any sidecar: stamped to the whole second, so that several write one point --------------------------

QUEUE = Measurement(
    "queue",
    "A model's turns that wait and are in work. $JS.API.CONSUMER.INFO",
    ("model", "priority"),
    {
        "num_pending": _int("turns", "queued, not yet delivered"),
        "num_in_work": _int("turns", "delivered, not yet settled"),
        "num_redelivered": _int("turns", "of those, delivered before"),
        "num_waiting_pulls": _int("pulls", "workers that ask for a turn"),
        "oldest_seconds": _float("s", "age of the stream's first turn; absent when it is empty"),
    },
)
WORKERS = Measurement(
    "workers",
    "Workers that answer discovery, by model",
    ("model",),
    {
        "num_workers": _int("workers", ""),
        "num_slots": _int("turns", "that they can work on at once"),
        "num_active": _int("turns", "that they work on"),
        "expected_wait_seconds": _float("s", "the shortest, until a turn queued now would be begun"),
    },
)
STREAM = Measurement(
    "stream",
    "A JetStream stream. $JS.API.STREAM.INFO",
    ("stream",),
    {
        "num_messages": _int("messages", "stored"),
        "bytes": _int("B", "stored"),
        "max_bytes": _int("B", "its bound; absent without one"),
        "num_consumers": _int("consumers", ""),
    },
)
BROKER = Measurement(
    "broker",
    "The nats-server. $JS.API.INFO and, where its monitoring port is known, /varz",
    ("server",),
    {
        "store_bytes": _int("B", "used by JetStream's files"),
        "max_store_bytes": _int("B", "what JetStream may use; absent without a bound"),
        "cpu_ratio": _float("cores", "CPU seconds per second, as it says"),
        "rss_bytes": _int("B", "resident"),
        "num_connections": _int("connections", ""),
        "num_slow_consumers": _int("connections", "cut off as too slow, counting up"),
        "received_bytes": _int("B", "from clients, counting up"),
        "sent_bytes": _int("B", "to clients, counting up"),
    },
)

# --- Tokens, by the workers ------------------------------------------------------------------------------------------

TURN = Measurement(
    "turn",
    "A turn that ended, by the worker that ended it",
    (*_WORKER_TAGS, "run"),
    {
        "client": _str("whose: the NATS user, or the client of a gateway's key"),
        "outcome": _str("stop, length, cancelled, or the code of a failure"),
        "is_failed": _bool("it ended as `failed`"),
        "queue_wait_seconds": _float("s", "from its publish to its seat, by two wall clocks"),
        "ttft_seconds": _float("s", "from its publish to its first token's choice, by two wall clocks"),
        "tpot_seconds": _float("s", "decode ÷ (tokens − 1)"),
        "prefill_seconds": _float("s", "its share of the steps"),
        "decode_seconds": _float("s", "from its first token to its last"),
        "prefill_tokens_per_second": _float("tokens/s", "prompt tokens not from the cache ÷ prefill"),
        "decode_tokens_per_second": _float("tokens/s", "(tokens − 1) ÷ decode"),
        "prompt_tokens": _int("tokens", ""),
        "cached_tokens": _int("tokens", "of those, not computed again"),
        "completion_tokens": _int("tokens", ""),
        "cached_in_context_tokens": _int("tokens", "of the cached ones, those that the context still held"),
        "cached_in_ram_tokens": _int("tokens", "those of a state parked in RAM"),
        "cached_in_disk_tokens": _int("tokens", "those of a state parked on disk"),
        "cached_in_peer_tokens": _int("tokens", "those of a state that another worker gave"),
        "recomputed_evicted_tokens": _int("tokens", "computed again: the caps had no room for their state"),
        "recomputed_killed_tokens": _int("tokens", "computed again: the worker that had them is gone"),
        "recomputed_fingerprint_tokens": _int(
            "tokens", "computed again: their state was another model file's or layout's"
        ),
        "recomputed_cheaper_tokens": _int("tokens", "computed again: quicker than fetching them from another worker"),
        "recomputed_overflow_tokens": _int("tokens", "computed again: older turns were left out before them"),
        "fetch_seconds": _float("s", "for the state to come from another worker; absent where none came"),
        "dropped_messages": _int("messages", "left out, as the context would not hold them"),
        "attempt": _int("", "0 unless the answer had to start anew"),
        "num_resumed_tokens": _int("tokens", "that an earlier worker had sent"),
        "joules": _float("J", "its share of the node's power over its steps; absent without a source of watts"),
    },
)
ENGINE = Measurement(
    "engine",
    "A second of a worker's engine; absent fields in an idle one",
    _WORKER_TAGS,
    {
        "num_steps": _int("steps", "calls of llama_decode"),
        "batch_size": _float("sequences", "mean number of sequences in a decode step"),
        "step_seconds": _float("s", "mean"),
        "max_step_seconds": _float("s", "the longest"),
        "busy_ratio": _float("ratio", "time in steps"),
        "prefill_tokens_per_second": _float("tokens/s", "prompt tokens computed in this second"),
        "decode_tokens_per_second": _float("tokens/s", "tokens chosen in this second"),
        "num_active": _int("turns", "seated"),
        "num_waiting": _int("turns", "taken, not seated yet"),
        "num_slots": _int("turns", ""),
        "num_cells_used": _int("tokens", "KV cells in use, those of idle conversations among them"),
        "num_cells": _int("tokens", "KV cells that there are"),
        "num_parked": _int("conversations", "parked in RAM"),
        "parked_bytes": _int("B", "their states"),
        "num_on_disk": _int("conversations", "parked on disk"),
        "disk_bytes": _int("B", "their files"),
        "num_evicted": _int("conversations", "given up by a cap since the worker's start"),
        "given_bytes": _int("B", "of states sent to other workers in this second"),
        "copy_ratio": _float("ratio", "time spent on copying states out of the context and into it"),
        "read_bytes_per_second": _float("B/s", "(weights + KV state read) of the decode steps ÷ their time"),
        "peak_bytes_per_second": _float("B/s", "measured at start: a copy by all threads, read and written bytes"),
        "num_dropped": _int("points", "dropped by this worker, its buffer full while NATS was away"),
    },
)
ROUTE = Measurement(
    "route",
    "A turn that a gateway found a model for",
    ("node", "policy", "model"),
    {"reason": _str("by what the policy chose, and which others had nothing")},
)
EVENT = Measurement(
    "event",
    "What happened: for annotations",
    ("node", "kind", "worker", "run"),
    {
        "text": _str(
            "worker started, worker stopped, worker lost, throttling began, run began, run ended; and about what"
        )
    },
)

MEASUREMENTS: tuple[Measurement, ...] = (
    CPU,
    SYSTEM,
    MEMORY,
    DISK,
    FILESYSTEM,
    NETWORK,
    PRESSURE,
    TEMPERATURE,
    FAN,
    THROTTLING,
    POWER,
    WEAR,
    PROCESS,
    CGROUP,
    SIDECAR,
    REJECTED,
    QUEUE,
    WORKERS,
    STREAM,
    BROKER,
    TURN,
    ENGINE,
    ROUTE,
    EVENT,
)


def event(time: int, kind: str, text: str, *, node: str = NONE, worker: str = NONE, run: str = NONE) -> Point | None:
    """For an annotation, at `time`, nanoseconds since the epoch."""
    return EVENT.point(time, {"node": node, "kind": kind, "worker": worker, "run": run}, {"text": text})


def reference() -> str:
    """The tables of docs/telemetry.md."""
    lines: list[str] = []
    for measurement in MEASUREMENTS:
        tags = ", ".join(f"`{tag}`" for tag in measurement.tags)
        lines += [f"### {measurement.name}", "", f"{measurement.meaning}. Tags: {tags}.", ""]
        lines += ["| field | type | unit | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{name}` | {field.kind} | {field.unit} | {field.meaning} |"
            for name, field in measurement.fields.items()
        ]
        lines.append("")
    return "\n".join(lines)


def renew(path: Path) -> None:
    """Writes the tables behind the mark in a page."""
    head, mark, _ = path.read_text().partition("<!-- reference: python -m broker.points -->\n")
    path.write_text(head + mark + reference())


if __name__ == "__main__":
    renew(Path(sys.argv[1]))
