"""What the server holds, as any sidecar asks it: stamped to the whole second, so that several write one point."""

from __future__ import annotations

from broker.points.measurement import Measurement, count, number

QUEUE = Measurement(
    "queue",
    "A model's turns that wait and are in work. $JS.API.CONSUMER.INFO",
    ("model", "priority"),
    {
        "num_pending": count("turns", "queued, not yet delivered"),
        "num_in_work": count("turns", "delivered, not yet settled"),
        "num_redelivered": count("turns", "of those, delivered before"),
        "num_waiting_pulls": count("pulls", "workers that ask for a turn"),
        "oldest_seconds": number("s", "age of the stream's first turn; absent when it is empty"),
    },
)
WORKERS = Measurement(
    "workers",
    "Workers that answer discovery, by model",
    ("model",),
    {
        "num_workers": count("workers", ""),
        "num_slots": count("turns", "that they can work on at once"),
        "num_active": count("turns", "that they work on"),
        "expected_wait_seconds": number("s", "the shortest, until a turn queued now would be begun"),
    },
)
STREAM = Measurement(
    "stream",
    "A JetStream stream. $JS.API.STREAM.INFO",
    ("stream",),
    {
        "num_messages": count("messages", "stored"),
        "bytes": count("B", "stored"),
        "max_bytes": count("B", "its bound; absent without one"),
        "num_consumers": count("consumers", ""),
    },
)
BROKER = Measurement(
    "broker",
    "The nats-server. $JS.API.INFO and, where its monitoring port is known, /varz",
    ("server",),
    {
        "store_bytes": count("B", "used by JetStream's files"),
        "max_store_bytes": count("B", "what JetStream may use; absent without a bound"),
        "cpu_ratio": number("cores", "CPU seconds per second, as it says"),
        "rss_bytes": count("B", "resident"),
        "num_connections": count("connections", ""),
        "num_slow_consumers": count("connections", "cut off as too slow, counting up"),
        "received_bytes": count("B", "from clients, counting up"),
        "sent_bytes": count("B", "to clients, counting up"),
    },
)
