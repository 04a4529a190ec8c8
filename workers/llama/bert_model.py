"""GGUF files of BERT's shape, which make vectors of texts: with random weights, for tests; with given ones, for
tools/embedding_model.py, which makes a real one of what the package index has. As llama.cpp's conversion/bert.py writes
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from workers.llama.random_model import FTYPES, write_tensors

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = ("the", "a", "node", "mast", "fan", "filter", "alarm", "check", "is", "of", "in", "where", "how", "hot")


@dataclass(frozen=True)
class BertShape:
    """The dimensions of a BERT."""

    name: str = "tiny-bert"
    num_embd: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_ff: int = 128
    num_ctx: int = 128
    """Tokens of the longest text."""
    num_types: int = 2
    eps: float = 1e-12
    pooling: gguf.PoolingType | None = gguf.PoolingType.MEAN
    """None: the file does not say."""


def small_vocabulary() -> list[str]:
    """WordPiece's as its files have it: special tokens, words, letters, and letters within a word."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    return list(dict.fromkeys([*SPECIAL_TOKENS, *_WORDS, *letters, *(f"##{one}" for one in letters)]))


def write_bert(
    path: Path, shape: BertShape, vocabulary: Sequence[str], tensor: Callable[[str, tuple[int, ...]], np.ndarray]
) -> Path:
    """Writes the model to `path`, whole or not at all, and returns that; `tensor` gives each by its name in the file
    and its dimensions."""
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "bert", use_temp_file=False)
    writer.add_name(shape.name)
    writer.add_license("Apache-2.0")
    writer.add_context_length(shape.num_ctx)
    writer.add_embedding_length(shape.num_embd)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.num_ff)
    writer.add_head_count(shape.num_heads)
    writer.add_layer_norm_eps(shape.eps)
    writer.add_causal_attention(False)
    if shape.pooling is not None:
        writer.add_pooling_type(shape.pooling)
    writer.add_file_type(FTYPES["F16"])
    _add_vocabulary(writer, shape, vocabulary)
    shapes = _tensor_shapes(shape, len(vocabulary))
    write_tensors(writer, shapes, lambda name: tensor(name, shapes[name]).astype(_dtype(name, shapes[name])), _dtype)
    part.rename(path)
    return path


def write_random_bert(path: Path, shape: BertShape = BertShape(), *, seed: int = 0) -> Path:
    """Writes one with random weights to `path` unless it exists; returns `path`."""
    rng = np.random.default_rng(seed)

    def tensor(name: str, dimensions: tuple[int, ...]) -> np.ndarray:
        if name.endswith("norm.weight"):
            return 1 + 0.1 * rng.standard_normal(dimensions)
        return rng.standard_normal(dimensions) * (0.1 if len(dimensions) == 1 else dimensions[-1] ** -0.5)

    path.parent.mkdir(parents=True, exist_ok=True)
    return path if path.exists() else write_bert(path, shape, small_vocabulary(), tensor)


def _add_vocabulary(writer: gguf.GGUFWriter, shape: BertShape, vocabulary: Sequence[str]) -> None:
    """Words begin with a mark there, and what goes on with a word has none."""
    at = {token: index for index, token in enumerate(vocabulary)}
    writer.add_token_type_count(shape.num_types)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_spelled(token) for token in vocabulary])
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in SPECIAL_TOKENS else normal for token in vocabulary])
    writer.add_bos_token_id(at[CLS])
    writer.add_sep_token_id(at[SEP])
    writer.add_unk_token_id(at[UNK])
    writer.add_pad_token_id(at[PAD])
    writer.add_mask_token_id(at[MASK])


def _spelled(token: str) -> str:
    if token in SPECIAL_TOKENS:
        return token
    return token[2:] if token.startswith("##") else f"\u2581{token}"


def _tensor_shapes(shape: BertShape, num_vocab: int) -> dict[str, tuple[int, ...]]:
    wide, square = (shape.num_ff, shape.num_embd), (shape.num_embd, shape.num_embd)
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (num_vocab, shape.num_embd),
        "position_embd.weight": (shape.num_ctx, shape.num_embd),
        "token_types.weight": (shape.num_types, shape.num_embd),
        "token_embd_norm.weight": (shape.num_embd,),
        "token_embd_norm.bias": (shape.num_embd,),
    }
    for layer in range(shape.num_layers):
        weights = {name: square for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        weights |= {"ffn_up": wide, "ffn_down": wide[::-1]}
        for name, dimensions in weights.items():
            found[f"blk.{layer}.{name}.weight"] = dimensions
            found[f"blk.{layer}.{name}.bias"] = dimensions[:1]
        for name in ("attn_output_norm", "layer_output_norm"):
            found |= {f"blk.{layer}.{name}.{kind}": (shape.num_embd,) for kind in ("weight", "bias")}
    return found


def _dtype(name: str, dimensions: tuple[int, ...]) -> np.dtype[np.floating]:
    """As llama.cpp wants them: only what is multiplied with is in half precision."""
    is_single = len(dimensions) == 1 or name.startswith(("position_embd", "token_types"))
    return np.dtype(np.float32 if is_single else np.float16)
