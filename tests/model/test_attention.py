"""llama.cpp's attention on a CPU, with what we have put into it: the formula's, for whatever looks at whatever."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ggml_attention import F16, F32, Q8_0, Case, Ggml, causal, of_streams, scattered, window
from workers.llama.backend import messages, system_info

LOOKS = {
    "one token": causal(1, 700),
    "few tokens": causal(5, 321),
    "half a tile": causal(32, 1024),
    "more than a tile": causal(100, 500),
    "a prompt": causal(130, 130),
    "eight streams": of_streams(8, 640, 8),
    "streams and a chunk": np.concatenate([of_streams(6, 512, 3), causal(20, 512)], axis=1),
    "a window": window(20, 777),
    "scattered": scattered(9, 333),
    "few cells": causal(3, 3),
    "two pools": np.concatenate([causal(4, 256), of_streams(4, 256, 2)]),
}
HEADS = {"as many KV heads": (4, 4), "in sevens": (14, 2), "one KV head": (8, 1), "in twos": (4, 2)}


@pytest.fixture(scope="module")
def ggml() -> Ggml:
    """The library."""
    messages()  # loads the backend
    return Ggml()


@pytest.mark.parametrize("looks", LOOKS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("kind", [F16, F32, Q8_0])
def test_attention_is_the_formulas(ggml: Ggml, looks: str, heads: str, kind: int) -> None:
    """Whatever way it goes: ours, or ggml's for what fills no lanes."""
    num_heads, num_kv_heads = HEADS[heads]
    for size, threads in ((64, 3), (128, 1)):
        case = Case(LOOKS[looks], heads=num_heads, kv_heads=num_kv_heads, size=size, kind=kind)
        tolerance = 4e-2 if kind == Q8_0 else 5e-3  # ggml's rows: sums of halves, and queries in eight bits
        assert np.abs(ggml.attention(case, threads) - case.expected()).max() < tolerance, (size, threads)


@pytest.mark.parametrize("looks", LOOKS)
@pytest.mark.parametrize("kind", [F16, Q8_0])
def test_grouped_attention_computes_in_floats(ggml: Ggml, looks: str, kind: int) -> None:
    """Seven heads share a KV head: all go our way, and are as near as floats are."""
    for size in (64, 96, 256):
        case = Case(LOOKS[looks], heads=14, kv_heads=2, size=size, kind=kind)
        assert np.abs(ggml.attention(case, 2) - case.expected()).max() < 2e-5, size


@pytest.mark.parametrize("looks", LOOKS)
@pytest.mark.parametrize(("softcap", "sinks"), [(20.0, False), (0.0, True)])
def test_caps_and_sinks_are_kept(ggml: Ggml, looks: str, softcap: float, sinks: bool) -> None:
    """Gemma 2's cap of scores and GPT-OSS's sinks."""
    case = Case(LOOKS[looks], heads=14, kv_heads=2, size=64, softcap=softcap, sinks=sinks)
    assert np.abs(ggml.attention(case, 2) - case.expected()).max() < 2e-5


def test_the_library_says_what_it_was_given() -> None:
    """As the worker's start and a run's facts tell it."""
    assert "GROUPED_ATTENTION = 1" in system_info()
