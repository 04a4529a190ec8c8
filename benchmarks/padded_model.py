"""The shipped model at the cost of a larger one: the same text from the same tokenizer, in TinyLlama-1.1B's dimensions.

All that is added is zero, so that what the model says is what the small one says, but for Q4_0's rounding. RMSNorm
divides by the mean over all dimensions, of which most are zero: its weights and its epsilon make up for them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from workers.llama.random_model import add_vocabulary, new_writer, write_quantized, write_tensors
from workers.llama.shapes import SHAPES, block_shapes
from workers.models import DEMO

SHAPE = SHAPES["TinyLlama-1.1B"]


def write_padded(path: Path) -> Path:
    """Writes the model to `path` unless it exists; returns `path`."""
    return write_quantized(path, "Q4_0", lambda f16: _write_f16(f16, gguf.GGUFReader(DEMO.path)))


def _write_f16(path: Path, small: gguf.GGUFReader) -> None:
    def number(name: str) -> float:
        field = small.get_field(f"llama.{name}")
        assert field is not None
        return float(field.contents())

    def listed(name: str) -> list[Any]:
        field = small.get_field(f"tokenizer.ggml.{name}")
        assert field is not None
        return list(field.contents())

    num_embd, num_layers = int(number("embedding_length")), int(number("block_count"))
    num_heads, num_kv_heads = int(number("attention.head_count")), int(number("attention.head_count_kv"))
    head = num_embd // num_heads
    assert head == SHAPE.num_embd // SHAPE.num_heads, "the heads of both must be of one size"
    share = num_embd / SHAPE.num_embd
    small_group, group = num_heads // num_kv_heads, SHAPE.num_heads // SHAPE.num_kv_heads
    # Queries stay with the keys that they belong to.
    rows = np.concatenate(
        [np.arange(head) + head * (group * (index // small_group) + index % small_group) for index in range(num_heads)]
    )
    tensors = {one.name: one for one in small.tensors}
    pieces = listed("tokens")
    writer = new_writer(
        path, replace(SHAPE, num_vocab=len(pieces)), eps=number("attention.layer_norm_rms_epsilon") * share
    )
    writer.add_name("the shipped model in TinyLlama-1.1B's dimensions")
    add_vocabulary(writer, pieces, listed("scores"), listed("token_type"))
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(pieces), SHAPE.num_embd)}
    shapes |= block_shapes(SHAPE)
    shapes["output_norm.weight"] = (SHAPE.num_embd,)

    def padded(name: str) -> np.ndarray:
        dimensions = shapes[name]
        one = tensors.get(name)
        full = np.zeros(dimensions, np.float32)
        if one is None:
            assert int(name.split(".")[1]) >= num_layers
            return full if len(dimensions) == 1 else full.astype(np.float16)
        weights = gguf.quants.dequantize(one.data, one.tensor_type).astype(np.float32)
        if weights.ndim == 1:
            full[: len(weights)] = weights * share**0.5
            return full
        if name.endswith("attn_q.weight"):
            full[rows, : weights.shape[1]] = weights
        elif name.endswith("attn_output.weight"):
            full[: weights.shape[0], rows] = weights
        else:
            full[: weights.shape[0], : weights.shape[1]] = weights
        return full.astype(np.float16)

    write_tensors(writer, shapes, padded)
