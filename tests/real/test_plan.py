"""The memory plan of real models: what llama.cpp allocates, by purpose."""

from __future__ import annotations

import pytest

from benchmarks.resident import measure
from tests.compute_plan import check_compute_plan
from tests.real import GEMMA, QWEN, real_model
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel


@pytest.mark.parametrize("name", [GEMMA, QWEN])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_the_planned_cache_is_what_is_allocated(name: str, kv_type: str) -> None:
    model = LlamaModel(real_model(name))
    options = ContextOptions(num_ctx=3072, num_slots=4, kv_type=kv_type)  # type: ignore[arg-type]
    engine = LlamaEngine(model, options)
    planned = model.kv_shape.quantized(kv_type).cache_bytes(3072, 4, options.num_ubatch)
    allocated = sum(size for name, size in engine.buffers.items() if "KV" in name)
    engine.close()
    model.close()
    assert planned == pytest.approx(allocated, rel=0.001)


@pytest.mark.parametrize("name", [GEMMA, QWEN])
def test_what_llama_computes_in_is_planned(name: str) -> None:
    model = LlamaModel(real_model(name), is_paged=True)
    try:
        check_compute_plan(model, above=1.05)
    finally:
        model.close()


@pytest.mark.parametrize("name", [GEMMA, QWEN])
async def test_a_worker_at_work_takes_what_was_planned(name: str) -> None:
    found = await measure(real_model(name), num_ctx=512, num_slots=8, park_bytes=4 << 20, threads=1)
    assert found.at_work == pytest.approx(found.plan.total, rel=0.03)
    # At rest nothing is parked, and what is computed in was hardly touched.
    idle = found.plan.total - found.plan.offload_cache
    assert 0.97 * (idle - found.plan.compute) <= found.at_rest <= 1.03 * idle


def test_weights_that_may_leave_memory_have_no_copy_in_it() -> None:
    path = real_model(GEMMA)
    copied, paged = LlamaModel(path), LlamaModel(path, is_paged=True)
    assert any("REPACK" in name for name in copied.buffers)
    assert not any("REPACK" in name for name in paged.buffers)
    copied.close()
    paged.close()
