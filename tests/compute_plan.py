"""Holds the plan of llama.cpp's compute buffer against what it allocates, for contexts of all sorts."""

from __future__ import annotations

from workers.engine.protocol import MAX_OUTPUTS
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel

CONTEXTS = (
    ContextOptions(num_ctx=1024, num_slots=8, num_ubatch=256),
    ContextOptions(num_ctx=8192, num_slots=8, num_ubatch=512),
    ContextOptions(num_ctx=4096, num_slots=4, num_ubatch=64),
    ContextOptions(num_ctx=4096, num_slots=64, num_ubatch=256),
    ContextOptions(num_ctx=4096, num_slots=1, num_ubatch=256, flash_attention=False),
)


def check_compute_plan(model: LlamaModel, *, above: float) -> None:
    """Fails where less than 0.97 of what is allocated was planned, or more than `above` times as much."""
    for options in CONTEXTS:
        engine = LlamaEngine(model, options)
        allocated = sum(size for name, size in engine.buffers.items() if name.endswith("compute"))
        engine.close()
        planned = model.kv_shape.compute_bytes(
            options.num_ctx,
            options.num_slots,
            options.num_ubatch,
            max(MAX_OUTPUTS, options.num_slots),
            flash_attention=options.flash_attention,
        )
        assert 0.97 * allocated <= planned <= above * allocated, f"{options}: {planned / allocated:.3f}"
