"""What a worker says of itself for the records of whoever measures it: names and values, all of them text."""

from __future__ import annotations

from workers.engine.threads import FixedThreads, StepThreads
from workers.settings import WorkerSettings

_SETTINGS = (
    "deterministic",
    "kv_type",
    "overflow",
    "num_slots",
    "num_ubatch",
    "step_budget_seconds",
    "coalesce_seconds",
)


def setting_facts(config: WorkerSettings) -> dict[str, str]:
    """The settings that decide how quick it is, and what it answers."""
    return {name: str(getattr(config, name)).lower() for name in _SETTINGS}


def thread_facts(threads: StepThreads) -> dict[str, str]:
    """How many threads a decode step and a prefill step take, and whether that was measured."""
    found = {}
    for name, one in (("threads", threads.decode), ("threads_batch", threads.prefill)):
        found[name] = str(one.current)
        found[f"{name}_are"] = "fixed" if isinstance(one, FixedThreads) else "measured"
    return found
