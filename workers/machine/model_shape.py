"""What of a model's shape decides about memory and speed, by its header: which layers keep every token, which a window,
which one state a sequence; and what is read for a token. As llama.cpp's src/models/*.cpp and llama-hparams.cpp do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from workers.architectures import HYBRID, RECURRENT
from workers.gguf_header import Header, HeaderError, Tensor, Value
from workers.machine.memory import KvShape
from workers.model_file import ModelFileError, header

PATTERNS = {
    "afmoe": (4, False), "cohere2": (4, False), "cohere2moe": (4, True), "exaone-moe": (4, False),
    "exaone4": (4, False), "gemma2": (2, False), "gemma3": (6, False), "gemma3n": (5, False), "gpt-oss": (2, False),
    "laguna": (4, True), "llama4": (4, False), "mellum": (4, False), "muse-glimmer": (4, False), "olmo2": (4, False),
    "plamo3": (8, False), "smallthinker": (4, True),
}  # fmt: skip
"""One layer in so many sees all tokens, and whether it is their first one and not the last; where no file says it."""
LISTED = frozenset(("gemma4", "granite_swa", "maple", "mimo2", "step35", "spark2_5", "dots3note"))
"""Whose files list the layers with a window."""
WINDOWS = {"gemma2": 4096, "exaone4": 4096, "exaone-moe": 128, "llama4": 8192, "smallthinker": 4096}
"""Tokens, where the file does not say it."""
DELTA_NETS = frozenset(("qwen3next", "qwen35", "qwen35moe", "qwen4exp"))
"""Which put a layer's new states beside its old ones; a Mamba layer computes in its own, and a little more."""
STATE_BYTES = 4
"""Of a value of a recurrent state, which is f32 always."""
LOOKED_UP = ("token_embd.weight", "per_layer_token_embd.weight")
"""Of which a token reads one row."""
MAX_LAYERS = 512
"""llama.cpp's LLAMA_MAX_LAYERS."""
MAX_NUMBER = 2**32 - 1
"""llama.cpp reads these as uint32_t."""


class _Keys:
    """The values of one architecture."""

    def __init__(self, values: dict[str, Value]) -> None:
        self._values = values
        self.architecture = str(values.get("general.architecture", ""))

    def number(self, key: str, default: int = 0) -> int:
        """The largest one of an array. Raises HeaderError."""
        found = self._values.get(f"{self.architecture}.{key}", default)
        if isinstance(found, tuple):
            return max((_whole(key, one) for one in found), default=default)
        return _whole(key, found) if isinstance(found, int | float) else default

    def each(self, key: str, count: int) -> Sequence[int] | None:
        """By layer; a single number is that of each of them, None none. Raises HeaderError."""
        found = self._values.get(f"{self.architecture}.{key}")
        if isinstance(found, tuple):
            return [_whole(key, one) for one in found[:count]] if len(found) >= count else None
        return [_whole(key, found)] * count if isinstance(found, int | float) else None


def _whole(key: str, found: int | float) -> int:
    """Raises HeaderError for what no model has: it would be reckoned with."""
    if not math.isfinite(found) or not 0 <= found <= MAX_NUMBER:
        raise HeaderError(f"is damaged: its {key} is {found}")
    return int(found)


def shape_in(path: Path, head: Header | None = None) -> KvShape:
    """Of the model of which `path` is the first file; `head` is its header, where that was read. Raises
    ModelFileError."""
    try:
        return shape_of(header(path) if head is None else head)
    except HeaderError as error:
        raise ModelFileError(path, str(error)) from None


def shape_of(header: Header) -> KvShape:
    """By the header of a model's first file. Raises HeaderError for numbers that no model has."""
    keys = _Keys(header.values)
    if (num_blocks := keys.number("block_count")) > MAX_LAYERS:
        raise HeaderError(f"is damaged: it tells of {num_blocks:,} layers, and llama.cpp has {MAX_LAYERS} at most")
    count = max(0, num_blocks - keys.number("nextn_predict_layers"))
    num_heads, num_embd = keys.number("attention.head_count"), keys.number("embedding_length")
    kv_heads = keys.each("attention.head_count_kv", count) or [num_heads] * count
    head = num_embd // num_heads if num_heads else 0
    full = keys.number("attention.key_length", head) + keys.number("attention.value_length", head)
    windowed = (
        keys.number("attention.key_length_swa", keys.number("attention.key_length", head))
        + keys.number("attention.value_length_swa", keys.number("attention.value_length", head))
    )  # fmt: skip
    window = _window(keys)
    has_window = _has_window(keys, count) if window else [False] * count
    has_state = _has_state(keys, kv_heads)
    state_bytes = _state_values(keys, num_embd, num_heads) * STATE_BYTES
    keeps_no_kv = keys.architecture in RECURRENT
    bytes_per_token = window_bytes_per_token = 0
    for layer in range(count - keys.number("attention.shared_kv_layers")):
        if keeps_no_kv or (has_state[layer] and keys.architecture != "falcon-h1"):
            continue
        if has_window[layer]:
            window_bytes_per_token += 2 * kv_heads[layer] * windowed
        else:
            bytes_per_token += 2 * kv_heads[layer] * full
    return KvShape(
        num_layers=count,
        bytes_per_token=bytes_per_token,
        num_embd=num_embd,
        num_vocab=header.lengths.get("tokenizer.ggml.tokens", keys.number("vocab_size")),
        num_heads=num_heads,
        num_ff=_num_ff(keys) or 4 * num_embd,
        window=window if window_bytes_per_token else 0,
        window_bytes_per_token=window_bytes_per_token,
        sequence_bytes=sum(has_state) * state_bytes,
        work_bytes=int(state_bytes * (2 if keys.architecture in DELTA_NETS else 1.1)) if any(has_state) else 0,
        num_inner=keys.number("ssm.inner_size", num_embd) if any(has_state) else 0,
        num_merges=header.lengths.get("tokenizer.ggml.merges", 0),
    )


def _num_ff(keys: _Keys) -> int:
    # Mixtral's experts are as wide as its files say of a layer that has none.
    of_layer = keys.number("feed_forward_length")
    experts = keys.number("expert_feed_forward_length", of_layer) * keys.number("expert_used_count")
    return max(of_layer, experts)


def _window(keys: _Keys) -> int:
    if keys.architecture not in PATTERNS and keys.architecture not in LISTED and keys.architecture != "lfm2":
        return 0
    if keys.architecture == "llama4" and keys.number("attention.sliding_window", 1) == 0:
        return 0
    return WINDOWS["llama4"] if keys.architecture == "llama4" else keys.number(
        "attention.sliding_window", WINDOWS.get(keys.architecture, 0)
    )  # fmt: skip


def _has_window(keys: _Keys, count: int) -> list[bool]:
    if keys.architecture == "lfm2":
        return [True] * count
    listed = keys.each("attention.sliding_window_pattern", count)
    default, dense_first = PATTERNS.get(keys.architecture, (0, False))
    period = keys.number("attention.sliding_window_pattern", default) if listed is None or len(set(listed)) == 1 else 0
    if listed is not None and (keys.architecture in LISTED or len(set(listed)) > 1):
        return [bool(one) for one in listed]
    if period == 0:
        return [True] * count
    return [layer % period != 0 if dense_first else layer % period < period - 1 for layer in range(count)]


def _has_state(keys: _Keys, kv_heads: Sequence[int]) -> list[bool]:
    """Which layers keep one state a sequence."""
    count = len(kv_heads)
    if keys.architecture in RECURRENT or keys.architecture == "falcon-h1":
        return [True] * count
    if keys.architecture not in HYBRID:
        return [False] * count
    if keys.architecture in DELTA_NETS:
        listed = keys.each("attention.recurrent_layers", count)
        interval = keys.number("full_attention_interval", 4) or 4
        return [bool(one) for one in listed] if listed else [(layer + 1) % interval != 0 for layer in range(count)]
    ff = keys.each("feed_forward_length", count) if keys.architecture.startswith("nemotron_h") else None
    return [not heads and not (ff and ff[layer]) for layer, heads in enumerate(kv_heads)]


def _state_values(keys: _Keys, num_embd: int, num_heads: int) -> int:
    """Of one layer, for one sequence: what its convolution remembers, and its state."""
    if wkv := keys.number("wkv.head_size"):
        return keys.number("token_shift_count", 2) * num_embd + num_embd * wkv
    if cache := keys.number("shortconv.l_cache"):
        return num_embd * (cache - 1)
    kernel = max(0, keys.number("ssm.conv_kernel") - 1)
    if kda := keys.number("kda.head_dim"):
        return 3 * (kernel or 3) * num_heads * kda + kda * kda * num_heads
    inner, state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    return kernel * (inner + 2 * keys.number("ssm.group_count") * state) + state * inner


# --- What is read for a token ---


def num_parameters(tensors: Sequence[Tensor]) -> int:
    """All of them."""
    return sum(tensor.num_values for tensor in tensors)


def active_share(header: Header) -> float:
    """What of the experts a token uses: 1 where there are none."""
    keys = _Keys(header.values)
    experts, used = keys.number("expert_count"), keys.number("expert_used_count")
    return used / experts if 0 < used < experts else 1.0


def active_parameters(header: Header, tensors: Sequence[Tensor]) -> int:
    """Those that a token is computed with, as such models are named by: its experts, and all that is no expert."""
    share = active_share(header)
    return round(sum(tensor.num_values * (share if "_exps." in tensor.name else 1) for tensor in tensors))


def active_bytes(header: Header, tensors: Sequence[Tensor]) -> int:
    """What is read from memory for a token: all but experts that it does not use, and tables of which it uses a row."""
    share = active_share(header)
    is_tied = not any(tensor.name == "output.weight" for tensor in tensors)
    read = [tensor for tensor in tensors if tensor.name not in LOOKED_UP or (is_tied and tensor.name == LOOKED_UP[0])]
    return round(sum(tensor.num_bytes * (share if "_exps." in tensor.name else 1) for tensor in read))
