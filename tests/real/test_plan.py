"""The memory plan of real models: what llama.cpp allocates, by purpose."""

from __future__ import annotations

import pytest

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


def test_weights_that_may_leave_memory_have_no_copy_in_it() -> None:
    path = real_model(GEMMA)
    copied, paged = LlamaModel(path), LlamaModel(path, is_paged=True)
    assert any("REPACK" in name for name in copied.buffers)
    assert not any("REPACK" in name for name in paged.buffers)
    copied.close()
    paged.close()
