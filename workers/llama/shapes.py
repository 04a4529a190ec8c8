"""The dimensions of models with random weights: small ones of each kind of cache, and real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CONV_KERNEL = 4
"""Of a Mamba or delta net layer."""
EXPERTS_USED = 2
DELTA_HEADS = 4
"""Of a gated delta net; half as many have keys of their own."""
SSM_HEAD = 64
"""Channels that a Mamba-2 layer has for each of its heads."""


@dataclass(frozen=True)
class Shape:
    """The dimensions of a model. `sliding_window` makes it a Gemma-3 shape, whose most layers see only so far;
    `conv_length` an LFM-2 shape, of whose layers most keep one state a sequence; `state_size` a Mamba shape, where all
    do, unless `hybrid` names another: qwen35 has gated delta nets, granitehybrid Mamba-2, in two layers of three.
    Where it has `num_experts`, EXPERTS_USED of them compute a token, as Mixtral's do."""

    name: str
    num_embd: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    num_ff: int
    num_vocab: int
    num_ctx: int
    sliding_window: int = 0
    conv_length: int = 0
    state_size: int = 0
    hybrid: Literal["", "qwen35", "granitehybrid"] = ""
    num_experts: int = 0

    @property
    def architecture(self) -> str:
        """As GGUF names it."""
        if self.hybrid:
            return self.hybrid
        if self.state_size:
            return "mamba"
        if self.conv_length:
            return "lfm2"
        return "gemma3" if self.sliding_window else "llama"

    def is_recurrent(self, layer: int) -> bool:
        """Whether a layer has a state instead of a cache."""
        if self.hybrid or self.conv_length:
            return layer % 3 != 2
        return bool(self.state_size)

    @property
    def ssm_inner(self) -> int:
        """Channels of a recurrent layer."""
        return DELTA_HEADS * self.state_size if self.hybrid == "qwen35" else 2 * self.num_embd

    @property
    def ssm_heads(self) -> int:
        """Heads of a recurrent layer, or the rank of its steps."""
        match self.hybrid:
            case "qwen35":
                return DELTA_HEADS
            case "granitehybrid":
                return self.ssm_inner // SSM_HEAD
            case _:
                return self.num_embd // 16


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 256, 2, 4, 2, 512, 1024, 4096),
        Shape("tiny-experts", 256, 2, 4, 2, 256, 1024, 4096, num_experts=8),
        Shape("tiny-swa", 256, 6, 4, 2, 512, 1024, 4096, sliding_window=64),
        Shape("tiny-hybrid", 256, 6, 4, 2, 512, 1024, 4096, conv_length=3),
        Shape("tiny-recurrent", 256, 4, 4, 2, 512, 1024, 4096, state_size=16),
        Shape("tiny-delta", 256, 6, 4, 2, 512, 1024, 4096, state_size=32, hybrid="qwen35"),
        Shape("tiny-mamba2", 256, 6, 4, 2, 512, 1024, 4096, state_size=32, hybrid="granitehybrid"),
        Shape("0.5B", 896, 24, 14, 2, 4864, 32000, 32768),
        Shape("TinyLlama-1.1B", 2048, 22, 32, 4, 5632, 32000, 2048),
        Shape("Llama-3.2-1B", 2048, 16, 32, 8, 8192, 128256, 131072),
        Shape("Llama-3.2-3B", 3072, 28, 24, 8, 8192, 128256, 131072),
    )
}


def block_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The tensors of all layers and their dimensions, in the order of a file."""
    return {
        f"blk.{layer}.{name}": dimensions
        for layer in range(shape.num_layers)
        for name, dimensions in _layer_shapes(shape, layer).items()
    }


def _layer_shapes(shape: Shape, layer: int) -> dict[str, tuple[int, ...]]:
    if shape.state_size and not shape.hybrid:
        return _mamba_shapes(shape)
    head = shape.num_embd // shape.num_heads
    kv = shape.num_kv_heads * head
    names: dict[str, tuple[int, ...]] = {"attn_norm.weight": (shape.num_embd,)}
    if shape.is_recurrent(layer) and shape.hybrid:
        names |= _delta_shapes(shape) if shape.hybrid == "qwen35" else _mamba2_shapes(shape)
    elif shape.is_recurrent(layer):
        names |= {
            "shortconv.conv.weight": (shape.num_embd, shape.conv_length),
            "shortconv.in_proj.weight": (3 * shape.num_embd, shape.num_embd),
            "shortconv.out_proj.weight": (shape.num_embd, shape.num_embd),
        }
    else:
        names |= {
            # A delta net's attention has gates beside its queries.
            "attn_q.weight": (shape.num_embd * (2 if shape.hybrid == "qwen35" else 1), shape.num_embd),
            "attn_k.weight": (kv, shape.num_embd),
            "attn_v.weight": (kv, shape.num_embd),
            "attn_output.weight": (shape.num_embd, shape.num_embd),
        }
    ffn_norm = "post_attention_norm.weight" if shape.hybrid == "qwen35" else "ffn_norm.weight"
    kind, each = ("_exps", (shape.num_experts,)) if shape.num_experts else ("", ())
    names |= {
        ffn_norm: (shape.num_embd,),
        f"ffn_gate{kind}.weight": (*each, shape.num_ff, shape.num_embd),
        f"ffn_up{kind}.weight": (*each, shape.num_ff, shape.num_embd),
        f"ffn_down{kind}.weight": (*each, shape.num_embd, shape.num_ff),
    }
    if shape.num_experts:
        names["ffn_gate_inp.weight"] = (shape.num_experts, shape.num_embd)
    has_norms = shape.conv_length or shape.hybrid == "qwen35"
    if shape.sliding_window or (has_norms and not shape.is_recurrent(layer)):
        names |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    if shape.sliding_window:
        names |= {"post_attention_norm.weight": (shape.num_embd,), "post_ffw_norm.weight": (shape.num_embd,)}
    return names


def _mamba_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    inner, rank = shape.ssm_inner, shape.ssm_heads
    return {
        "attn_norm.weight": (shape.num_embd,),
        "ssm_in.weight": (2 * inner, shape.num_embd),
        "ssm_conv1d.weight": (inner, CONV_KERNEL),
        "ssm_conv1d.bias": (inner,),
        "ssm_x.weight": (rank + 2 * shape.state_size, inner),
        "ssm_dt.weight": (inner, rank),
        "ssm_dt.bias": (inner,),
        "ssm_a": (inner, shape.state_size),
        "ssm_d": (inner,),
        "ssm_out.weight": (shape.num_embd, inner),
    }


def _mamba2_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    inner, heads, channels = shape.ssm_inner, shape.ssm_heads, shape.ssm_inner + 2 * shape.state_size
    return {
        "ssm_in.weight": (inner + channels + heads, shape.num_embd),
        "ssm_conv1d.weight": (channels, CONV_KERNEL),
        "ssm_conv1d.bias": (channels,),
        "ssm_dt.bias": (heads,),
        "ssm_a": (heads, 1),
        "ssm_d": (heads, 1),
        "ssm_norm.weight": (1, inner),
        "ssm_out.weight": (shape.num_embd, inner),
    }


def _delta_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    # As many channels of values as of queries and keys together: of those there are half as many heads each.
    inner, heads = shape.ssm_inner, shape.ssm_heads
    return {
        "attn_qkv.weight": (2 * inner, shape.num_embd),
        "attn_gate.weight": (inner, shape.num_embd),
        "ssm_conv1d.weight": (2 * inner, CONV_KERNEL),
        "ssm_dt.bias": (heads,),
        "ssm_a": (heads,),
        "ssm_beta.weight": (heads, shape.num_embd),
        "ssm_alpha.weight": (heads, shape.num_embd),
        "ssm_norm.weight": (shape.state_size,),
        "ssm_out.weight": (shape.num_embd, inner),
    }
