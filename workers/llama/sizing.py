"""What a worker's contexts are like, by its settings, and the memory that they take."""

from __future__ import annotations

import logging

from workers.engine.protocol import MAX_OUTPUTS
from workers.llama.backend import missing_features, system_info
from workers.llama.context import ContextOptions, LlamaModel
from workers.machine.cores import num_cores
from workers.machine.facts import cpu_flags
from workers.machine.memory import MemoryPlan, available_bytes, check_memory
from workers.machine.model_plan import draft_size
from workers.settings import WorkerSettings, resident

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


def planned(model: LlamaModel, config: WorkerSettings, num_ctx: int) -> MemoryPlan:
    """The memory plan, of what is available now. Raises DoesNotFit."""
    return check_memory(
        model.kv_shape.quantized(config.kv_type),
        weight_bytes=resident(model.weight_bytes, config.resident_bytes),
        num_ctx=num_ctx,
        num_ubatch=config.num_ubatch,
        max_outputs=max(MAX_OUTPUTS, config.num_slots),
        flash_attention=not config.deterministic,
        # The file is mapped by now, and counted in the plan; mapped pages count as available.
        available=available_bytes(),
        offload_cache=config.park_bytes,
        num_slots=1 if config.deterministic else config.num_slots,
        draft=draft_size(config),
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
