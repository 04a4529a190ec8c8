"""What a worker's contexts are like, by its settings, and the memory that they take."""

from __future__ import annotations

import logging

from workers.llama.backend import missing_features, system_info
from workers.llama.context import ContextOptions
from workers.machine.cores import num_cores
from workers.machine.facts import cpu_flags
from workers.machine.memory import MemoryPlan
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)


def context_options(config: WorkerSettings, num_ctx: int) -> ContextOptions:
    """Of the model's context, and of a draft model's."""
    return ContextOptions(
        num_ctx=num_ctx,
        # One sequence at a time, in cells that no other's history has shifted.
        num_slots=1 if config.deterministic else config.num_slots,
        num_threads=num_cores(),
        num_ubatch=config.num_ubatch,
        flash_attention=not config.deterministic,
        kv_type=config.kv_type,
    )


def report(plan: MemoryPlan, buffers: dict[str, float]) -> None:
    """Tells how llama.cpp was built, what was planned, and what llama.cpp has by name."""
    info = system_info()
    log.info("llama.cpp %s", info.strip())
    if missing := missing_features(cpu_flags(), info):
        log.warning("llama.cpp was built without what this CPU has: %s", ", ".join(missing))
    log.info("memory %s", plan.describe())
    sizes = " ".join(f"{name.replace(' ', '_')}={size / 2**20:.0f}MiB" for name, size in buffers.items())
    log.info("memory llama.cpp has %s", sizes)
