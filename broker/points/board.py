"""What a node's board tells: what it has of models, and what it did with them."""

from __future__ import annotations

from broker.points.measurement import Measurement, count, flag, number, text

BOARD = Measurement(
    "board",
    "A node's board every five seconds. Counts are since its start, counting up",
    ("node",),
    {
        "memory_bytes": count("B", "for models, all together"),
        "planned_bytes": count("B", "of those, what the models that are loaded may take"),
        "used_bytes": count("B", "what their workers hold of it by now; mapped files, which can be dropped, left out"),
        "kept_bytes": count("B", "conversations of models that are not loaded, in memory"),
        "num_models": count("models", "that it may load"),
        "num_loaded": count("models", "whose workers take turns, or finish what they have"),
        "num_loading": count("models", "whose workers start"),
        "num_broken": count("models", "that could not be loaded"),
        "num_in_hand": count("turns", "that its workers have"),
        "memory_pressure_ratio": number("ratio", "time in which something waited for memory, over 10 s"),
        "is_throttled": flag("heat or the supply slow it down"),
        "num_loads": count("models", "that came to serve"),
        "num_failed_loads": count("models", "that were to be loaded, and could not be"),
        "num_swaps": count("models", "that were unloaded for another"),
        "loading_seconds": number("s", "time lost to loading, from the start of a worker's process to its first turn"),
        "num_waited": count("turns", "that had waited for their model to be loaded here"),
        "waited_seconds": number("s", "for which they had waited"),
        "num_claims_lost": count("claims", "that another board had when this one wanted or renewed them"),
        "num_dropped": count("points", "dropped by this board, its buffer full while NATS was away"),
    },
)
BOARD_MODEL = Measurement(
    "board_model",
    "A model that a board has loaded or could load, every five seconds",
    ("node", "model"),
    {
        "state": text("available, loading, serving, draining, or broken"),
        "loaded_ratio": number("ratio", "0 where it is not loaded, how much of its load is done, 1 once it serves"),
        "planned_bytes": count("B", "of memory, while it is loaded"),
        "num_in_hand": count("turns", "that its worker has"),
        "idle_seconds": number("s", "since its latest turn; absent where there was none"),
        "load_seconds": number("s", "what a load of it takes here"),
        "pin": text("always, never, or `-`"),
    },
)
MODEL_LOAD = Measurement(
    "model_load",
    "A load of a model by a board, when it ended: `outcome` is `served`, `failed`, or `given up`, told to go",
    ("node", "model", "outcome"),
    {
        "why": text("by which rule it was loaded, or `ordered`"),
        "load_seconds": number("s", "from the start of its process; 0 where there was none"),
        "file_bytes": count("B", "of its files"),
        "planned_bytes": count("B", "of memory"),
        "copy": count("", "0 for the first one in the cluster"),
        "num_unloaded": count("models", "that made room for it"),
        "reason": text("why it failed"),
    },
)
MODEL_UNLOAD = Measurement(
    "model_unload",
    "A model's worker on a board that has ended, after it had served",
    ("node", "model"),
    {
        "why": text("by which rule it was unloaded; `ordered`, `board stops`, or `ended`: nobody told it to go"),
        "made_room_for": text("the model that was loaded for it, or `-`"),
        "stay_seconds": number("s", "for which it had been loaded"),
        "drain_seconds": number("s", "from being told to go to its end"),
        "num_settled": count("turns", "that it had"),
        "num_waited": count("turns", "of those, that had waited for this load"),
        "reason": text("how it ended where nobody told it to go"),
    },
)
