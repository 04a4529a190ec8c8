"""What a header says of memory and speed, held against llama.cpp's own figures where they were read."""

from __future__ import annotations

import re
from typing import Any

import pytest

from workers.gguf_header import Header, HeaderError, Tensor
from workers.machine.memory import KvShape
from workers.machine.model_shape import active_bytes, active_parameters, num_parameters, shape_of


def header(architecture: str, tensors: tuple[Tensor, ...] = (), **values: Any) -> Header:
    told: dict[str, Any] = {f"{architecture}.{key.replace('__', '.')}": value for key, value in values.items()}
    return Header(told | {"general.architecture": architecture, "tensors": 1}, {}, tensors, 0, 0)


def shape(architecture: str, **values: Any) -> KvShape:
    return shape_of(header(architecture, **values))


def test_layers_with_a_window_are_counted_by_themselves() -> None:
    # Gemma 3 270M: llama.cpp allocates 87.75 MiB of it for 8,192 cells and 8 sequences.
    found = shape(
        "gemma3", block_count=18, embedding_length=640, feed_forward_length=2048, attention__head_count=4,
        attention__head_count_kv=1, attention__key_length=256, attention__value_length=256,
        attention__sliding_window=512,
    )  # fmt: skip
    assert (found.bytes_per_token, found.window_bytes_per_token, found.window) == (3 * 1024, 15 * 1024, 512)
    assert found.cache_bytes(8192, 8, 256) == 87.75 * 2**20
    assert found.cache_bytes(1024, 8, 256) == 18 * 1024 * 1024


def test_a_list_of_layers_wins_over_the_architectures_own_pattern() -> None:
    found = shape(
        "gemma4", block_count=6, embedding_length=64, attention__head_count=4, attention__head_count_kv=1,
        attention__key_length=512, attention__value_length=512, attention__key_length_swa=256,
        attention__value_length_swa=256, attention__sliding_window=512, attention__shared_kv_layers=2,
        attention__sliding_window_pattern=(True, True, True, False, True, False),
    )  # fmt: skip
    assert (found.window_bytes_per_token, found.bytes_per_token) == (3 * 2 * 512, 2 * 1024)


@pytest.mark.parametrize(
    ("architecture", "values", "num_full", "state_bytes"),
    [
        # LFM2 1.2B: 6 of 16 layers attend; 10 × 2,048 × 2 values of f32.
        ("lfm2", {"attention__head_count_kv": (0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0), "block_count": 16,
                  "embedding_length": 2048, "attention__head_count": 32, "shortconv__l_cache": 3}, 6, 163_840),
        # Granite 4.0 H 1B: 4 of 40 layers attend; 36 × (3 × (3,072 + 2 × 128) + 128 × 3,072) values of f32.
        ("granitehybrid", {"attention__head_count_kv": (0, 0, 0, 0, 0, 4, 0, 0, 0, 0) * 4, "block_count": 40,
                           "embedding_length": 1536, "attention__head_count": 12, "ssm__conv_kernel": 4,
                           "ssm__state_size": 128, "ssm__group_count": 1, "ssm__inner_size": 3072}, 4, 58_060_800),
        # Qwen3.5: every fourth layer attends.
        ("qwen35", {"attention__head_count_kv": 2, "block_count": 25, "nextn_predict_layers": 1,
                    "embedding_length": 1024, "attention__head_count": 8, "attention__key_length": 256,
                    "attention__value_length": 256, "ssm__conv_kernel": 4, "ssm__state_size": 128,
                    "ssm__group_count": 16, "ssm__inner_size": 2048}, 6, 18 * (3 * 6144 + 128 * 2048) * 4),
        ("mamba2", {"block_count": 2, "embedding_length": 64, "ssm__conv_kernel": 4, "ssm__state_size": 16,
                    "ssm__group_count": 1, "ssm__inner_size": 128}, 0, 2 * (3 * 160 + 2048) * 4),
    ],
)  # fmt: skip
def test_recurrent_layers_cost_a_state_a_sequence_and_no_tokens(
    architecture: str, values: dict[str, Any], num_full: int, state_bytes: int
) -> None:
    found = shape(architecture, **values)
    heads = values.get("attention__head_count_kv", 0)
    head = values.get("attention__key_length", values["embedding_length"] // values.get("attention__head_count", 1))
    per_layer = (max(heads) if isinstance(heads, tuple) else heads) * 2 * head * 2
    assert found.bytes_per_token == num_full * per_layer
    assert found.sequence_bytes == state_bytes
    assert found.cache_bytes(256, 4, 256) - found.cache_bytes(256, 2, 256) == 2 * state_bytes


def test_q8_0_takes_less_of_every_token_and_nothing_of_states() -> None:
    found = KvShape(1, 64, 1, 1, 1, 1, window=8, window_bytes_per_token=128, sequence_bytes=100).quantized("q8_0")
    assert (found.bytes_per_token, found.window_bytes_per_token, found.sequence_bytes) == (34, 68, 100)


def test_a_token_is_computed_with_the_experts_that_it_uses() -> None:
    def tensor(name: str, values: int) -> Tensor:
        return Tensor(name, (values,), "Q8_0", 2 * values)

    experts = tensor("blk.0.ffn_up_exps.weight", 640), tensor("token_embd.weight", 100)
    others = tensor("blk.0.attn_q.weight", 10), tensor("output.weight", 100)
    tensors = (*experts, *others)
    found = header("olmoe", tensors, expert_count=64, expert_used_count=8)
    assert (num_parameters(tensors), active_parameters(found, tensors)) == (850, 80 + 100 + 10 + 100)
    assert active_bytes(found, tensors) == 2 * (80 + 10 + 100)
    tied = (*experts, others[0])
    assert active_bytes(found, tied) == 2 * (80 + 100 + 10)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"block_count": 1 << 40}, "its block_count is 1099511627776"),
        ({"block_count": 513}, "it tells of 513 layers, and llama.cpp has 512 at most"),
        ({"block_count": 4, "embedding_length": -64}, "its embedding_length is -64"),
        ({"block_count": float("nan")}, "its block_count is nan"),
        ({"block_count": 2, "attention__head_count_kv": (1, float("inf"))}, "its attention.head_count_kv is inf"),
        ({"block_count": 2, "attention__head_count_kv": (4, -4)}, "its attention.head_count_kv is -4"),
    ],
)
def test_numbers_that_no_model_has_are_told_and_not_reckoned_with(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(HeaderError, match=re.escape(reason)):
        shape("llama", **values)
