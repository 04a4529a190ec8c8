"""The memory plan of each kind of cache: what llama.cpp allocates for computing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compute_plan import check_compute_plan
from workers.llama.context import LlamaModel
from workers.llama.random_model import write_model
from workers.llama.shapes import Shape

SHAPES = (
    Shape("wide", 768, 2, 8, 2, 2560, 1024, 4096),
    Shape("wide-experts", 768, 2, 8, 2, 1024, 1024, 4096, num_experts=4),
    Shape("wide-swa", 768, 6, 8, 2, 2560, 1024, 4096, sliding_window=512),
    Shape("wide-hybrid", 768, 3, 8, 2, 2560, 1024, 4096, conv_length=3),
    Shape("wide-recurrent", 768, 2, 8, 2, 2560, 1024, 4096, state_size=16),
    Shape("wide-delta", 768, 3, 8, 2, 2560, 1024, 4096, state_size=128, hybrid="qwen35"),
    Shape("wide-mamba2", 768, 3, 8, 2, 2560, 1024, 4096, state_size=128, hybrid="granitehybrid"),
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_what_llama_computes_in_is_planned_for_each_kind_of_cache(shape: Shape, tmp_path: Path) -> None:
    model = LlamaModel(write_model(tmp_path / "model.gguf", shape, "Q8_0"))
    try:
        check_compute_plan(model, above=1.1)
    finally:
        model.close()
