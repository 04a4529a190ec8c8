"""What a sidecar measures: its node, the workers' processes there, and itself."""

from __future__ import annotations

from broker.points.measurement import Measurement, count, flag, number, text

CPU = Measurement(
    "cpu",
    "A core, or `all` of them, over the time since the sample before, the first time since boot. /proc/stat, cpufreq",
    ("node", "cpu"),
    {
        "busy_ratio": number("ratio", "time not idle and not waiting for a disk"),
        "user_ratio": number("ratio", "time in programs, nice ones among them"),
        "system_ratio": number("ratio", "time in the kernel, interrupts among it"),
        "iowait_ratio": number("ratio", "time waiting for a disk"),
        "frequency_hertz": number("Hz", "scaling_cur_freq; of `all` the mean"),
    },
)
SYSTEM = Measurement(
    "system",
    "The node as a whole. /proc/loadavg, /proc/uptime",
    ("node",),
    {
        "load1": number("processes", "mean number running or waiting over 1 min"),
        "load5": number("processes", "the same over 5 min"),
        "load15": number("processes", "the same over 15 min"),
        "uptime_seconds": number("s", "since the node booted"),
        "num_cores": count("cores", "logical cores that are online"),
    },
)
MEMORY = Measurement(
    "memory",
    "The node's memory. /proc/meminfo, /proc/vmstat",
    ("node",),
    {
        "total_bytes": count("B", "MemTotal"),
        "available_bytes": count("B", "MemAvailable: what programs could get without swapping"),
        "used_bytes": count("B", "total less available"),
        "cached_bytes": count("B", "page cache; a mapped model is in it"),
        "swap_total_bytes": count("B", "SwapTotal"),
        "swap_used_bytes": count("B", "SwapTotal less SwapFree"),
        "swapped_in_bytes": count("B", "since boot, counting up"),
        "swapped_out_bytes": count("B", "since boot, counting up"),
    },
)
DISK = Measurement(
    "disk",
    "A block device. /proc/diskstats",
    ("node", "device"),
    {
        "read_bytes": count("B", "since boot, counting up"),
        "written_bytes": count("B", "since boot, counting up"),
        "busy_seconds": number("s", "time with something under way, since boot, counting up"),
    },
)
FILESYSTEM = Measurement(
    "filesystem",
    "The file system of the sidecar's data directory. statvfs",
    ("node", "path"),
    {"total_bytes": count("B", "size"), "free_bytes": count("B", "what a user may still fill")},
)
NETWORK = Measurement(
    "network",
    "A network interface, loopback left out. /proc/net/dev",
    ("node", "interface"),
    {
        "received_bytes": count("B", "since boot, counting up"),
        "sent_bytes": count("B", "since boot, counting up"),
        "num_errors": count("packets", "in and out, since boot, counting up"),
        "num_dropped": count("packets", "in and out, since boot, counting up"),
    },
)
PRESSURE = Measurement(
    "pressure",
    "Pressure stall information, of the node or the container. /proc/pressure, cgroup v2 *.pressure",
    ("node", "scope", "resource"),
    {
        "some_ratio": number("ratio", "time in which at least one task waited, over 10 s"),
        "full_ratio": number("ratio", "time in which all tasks waited, over 10 s"),
        "some_seconds": number("s", "the first, counting up"),
        "full_seconds": number("s", "the second, counting up"),
    },
)
TEMPERATURE = Measurement(
    "temperature",
    "A thermal zone or hardware monitor. /sys/class/thermal, /sys/class/hwmon",
    ("node", "sensor"),
    {"celsius": number("°C", "as the sensor says")},
)
FAN = Measurement(
    "fan",
    "A fan. /sys/class/hwmon, /sys/class/thermal/cooling_device*",
    ("node", "fan"),
    {
        "rpm": number("1/min", "fan*_input"),
        "level_ratio": number("ratio", "cur_state ÷ max_state of the cooling device"),
    },
)
THROTTLING = Measurement(
    "throttling",
    "What the Raspberry Pi's firmware holds back. get_throttled in sysfs, else `vcgencmd get_throttled`",
    ("node",),
    {
        "bits": count("bits", "the firmware's word"),
        "undervoltage": flag("bit 0: under-voltage now"),
        "frequency_capped": flag("bit 1: frequency capped now"),
        "throttled": flag("bit 2: throttled now"),
        "soft_temperature_limit": flag("bit 3: soft temperature limit now"),
        "undervoltage_since_boot": flag("bit 16"),
        "frequency_capped_since_boot": flag("bit 17"),
        "throttled_since_boot": flag("bit 18"),
        "soft_temperature_limit_since_boot": flag("bit 19"),
    },
)
POWER = Measurement(
    "power",
    "Watts by source: `pmic` sums a Pi 5's rails (`vcgencmd pmic_read_adc`), `rapl` is x86's package counter",
    ("node", "source"),
    {
        "watts": number("W", "now (pmic), or the mean since the sample before (rapl)"),
        "is_estimated": flag("the board estimates: a PMIC does not see what its USB ports and its own losses take"),
    },
)
WEAR = Measurement(
    "wear",
    "How worn an eMMC or SD card says it is. /sys/block/mmcblk*/device: life_time, pre_eol_info",
    ("node", "device"),
    {
        "used_ratio": number("ratio", "upper bound of the life used, the worse of the two kinds of memory"),
        "pre_end_of_life": count("level", "reserved blocks: 1 normal, 2 over 80 % used, 3 urgent"),
    },
)
PROCESS = Measurement(
    "process",
    "A worker's process on this node. psutil: /proc/PID",
    ("node", "worker"),
    {
        "cpu_ratio": number("cores", "CPU seconds per second since the sample before"),
        "rss_bytes": count("B", "resident, a mapped model among it"),
        "num_minor_faults": count("faults", "since its start, counting up"),
        "num_major_faults": count("faults", "the same that had to read a disk"),
        "num_threads": count("threads", ""),
        "num_voluntary_switches": count("switches", "since its start, counting up"),
        "num_involuntary_switches": count("switches", "since its start, counting up"),
    },
)
CGROUP = Measurement(
    "cgroup",
    "A worker's cgroup: `scope` is `pod` in one of Kubernetes, else `node`. cgroup v1 and v2",
    ("node", "scope", "worker"),
    {
        "cpu_seconds": number("s", "CPU time used, counting up"),
        "throttled_seconds": number("s", "time in which the CPU limit held it back, counting up"),
        "cpu_limit_cores": number("cores", "the tightest of its own and those above it; absent without a limit"),
        "memory_bytes": count("B", "charged to it, page cache among it"),
        "memory_limit_bytes": count("B", "the tightest of its own and those above it; absent without a limit"),
        "num_oom_kills": count("kills", "counting up"),
    },
)
SIDECAR = Measurement(
    "sidecar",
    "What telemetry itself costs and what became of the points",
    ("node",),
    {
        "cpu_ratio": number("cores", "CPU seconds per second since the sample before"),
        "rss_bytes": count("B", "resident"),
        "sample_seconds": number("s", "what taking the last sample took"),
        "num_sent": count("points", "handed to NATS since its start"),
        "num_dropped": count("points", "dropped at the source, its buffer full while NATS was away"),
        "num_written": count("points", "written to the database by this sidecar since its start"),
        "num_rejected": count("points", "refused by the database, kept in `rejected`"),
        "num_expired": count("batches", "gone from TELEMETRY before anybody wrote them, since its start"),
        "write_seconds": number("s", "what the last write took"),
    },
)
REJECTED = Measurement(
    "rejected",
    "A point that the database refused: the dead letters of telemetry",
    ("node", "of"),
    {"line": text("the point in line protocol, up to 2,000 characters"), "reason": text("the database's words")},
)
