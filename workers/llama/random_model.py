"""GGUF files with random weights at real dimensions, for tests, benchmarks and a first look. Never in git.

What such a model says is noise, but it costs what a real one of its shape costs, and its tokenizer, chat template and
special tokens are real. llama.cpp's own quantiser makes the final file.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import gguf
import llama_cpp.llama_cpp as lib
import numpy as np

from broker.errors import TurnpikeError
from workers.llama.backend import messages
from workers.llama.shapes import CONV_KERNEL, DELTA_HEADS, EXPERTS_USED, SHAPES, Shape, block_shapes

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
UNK, BOS, EOS, IM_START, IM_END = range(5)
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_BLOCK = 1 << 20

FTYPES = {
    "F16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K_M": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
}

_WORDS = """
    the of and to in is you that it he was for on are as with his they at be this have from or one had by word but
    not what all were we when your can said there use an each which she do how their if will up other about out many
    then them these so some her would make like him into time has look two more write go see number no way could
    people my than first water been call who oil its now find long down day did get come made may part over new
    sound take only little work know place year live me back give most very after thing our just name good sentence
    man think say great where help through much before line right too mean old any same tell boy follow came want
    show also around form three small set put end does another well large must big even such because turn here why
    ask went men read need land different home us move try kind hand picture again change off play spell air away
    animal house point page letter mother answer found study still learn should radio site node alarm power mast
    antenna battery link signal cable board fan clock queue worker token model prompt server system user assistant
    please explain hello yes restart check level temperature network traffic cell edge cluster update
"""
_ONSETS = ["b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr", "br", "cl"]
_RIMES = ["a", "e", "i", "o", "u", "an", "en", "in", "on", "un", "ar", "er", "or", "al", "el", "ing", "ent", "ist"]


def vocabulary(num_vocab: int) -> tuple[list[str], list[float], list[int]]:
    """Pieces, scores and types of a SentencePiece vocabulary with byte fallback in which every piece can be reached."""
    pieces = dict.fromkeys(SPECIAL_TOKENS)
    types = [_UNKNOWN] + [_CONTROL] * (len(SPECIAL_TOKENS) - 1)
    pieces |= dict.fromkeys(f"<0x{byte:02X}>" for byte in range(256))
    types += [_BYTE] * 256
    # Merging goes left to right, so a word needs all its prefixes.
    characters = [chr(code) for code in range(33, 127)] + list("▁éüñ…–’日本語")
    words = itertools.chain(
        _WORDS.split(), ("".join(parts) for n in (1, 2, 3) for parts in itertools.product(*[_ONSETS, _RIMES] * n))
    )
    prefixes = ("▁" + word[:end] for word in words for end in range(1, len(word) + 1))
    for piece in itertools.chain(characters, prefixes):
        if len(pieces) == num_vocab:
            break
        pieces.setdefault(piece)
    types += [_NORMAL] * (len(pieces) - len(types))
    scores = [0.0 if kind != _NORMAL else -float(index) for index, kind in enumerate(types)]
    return list(pieces), scores, types


def write_model(path: Path, shape: Shape | str, quantization: str = "Q4_0", *, seed: int = 0) -> Path:
    """Writes the model to `path` unless it exists; returns `path`. Needs twice the parameters in bytes beside it."""
    dimensions = SHAPES[shape] if isinstance(shape, str) else shape
    return write_quantized(path, quantization, lambda f16: _write_f16(f16, dimensions, np.random.default_rng(seed)))


def write_quantized(path: Path, quantization: str, write_f16: Callable[[Path], None]) -> Path:
    """Quantises what `write_f16` writes to `path`, whole or not at all, unless that exists; returns `path`."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unquantized = path.with_suffix(f".{os.getpid()}.f16")
    finished = path.with_suffix(f".{os.getpid()}.part")
    try:
        write_f16(unquantized)
        quantize(unquantized, finished, quantization)
        finished.rename(path)
    finally:
        unquantized.unlink(missing_ok=True)
        finished.unlink(missing_ok=True)
    return path


def quantize(source: Path, target: Path, quantization: str) -> None:
    """llama.cpp's own quantiser, without its page of output."""
    messages()
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = FTYPES[quantization]
    parameters.nthread = os.cpu_count() or 1
    if lib.llama_model_quantize(str(source).encode(), str(target).encode(), parameters) != 0:
        raise TurnpikeError(f"llama.cpp could not quantise {source} to {quantization}")


def new_writer(path: Path, shape: Shape, eps: float = 1e-5) -> gguf.GGUFWriter:
    """A GGUF file that has its dimensions, and wants its vocabulary, its tensors in f16 and who made it."""
    writer = gguf.GGUFWriter(path, shape.architecture, use_temp_file=False)
    head = shape.num_embd // shape.num_heads
    writer.add_context_length(shape.num_ctx)
    writer.add_embedding_length(shape.num_embd)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.num_ff)
    writer.add_head_count(shape.num_heads)
    if shape.conv_length or shape.hybrid == "granitehybrid":
        layers = range(shape.num_layers)
        writer.add_head_count_kv([0 if shape.is_recurrent(layer) else shape.num_kv_heads for layer in layers])
    else:
        writer.add_head_count_kv(shape.num_kv_heads)
    if shape.conv_length:
        writer.add_shortconv_l_cache(shape.conv_length)
    if shape.state_size:
        _add_state_space(writer, shape)
    if shape.num_experts:
        writer.add_expert_count(shape.num_experts)
        writer.add_expert_used_count(EXPERTS_USED)
    writer.add_layer_norm_rms_eps(eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(shape.num_vocab)
    if shape.sliding_window:
        writer.add_sliding_window(shape.sliding_window)
        writer.add_key_length(head)
        writer.add_value_length(head)
    else:
        writer.add_rope_dimension_count(head)
    writer.add_file_type(FTYPES["F16"])
    return writer


def _add_state_space(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_ssm_conv_kernel(CONV_KERNEL)
    writer.add_ssm_inner_size(shape.ssm_inner)
    writer.add_ssm_state_size(shape.state_size)
    writer.add_ssm_time_step_rank(shape.ssm_heads)
    if shape.hybrid == "granitehybrid":
        writer.add_ssm_group_count(1)
    elif shape.hybrid == "qwen35":
        writer.add_ssm_group_count(DELTA_HEADS // 2)
        writer.add_full_attention_interval(3)
        quarter = shape.num_embd // shape.num_heads // 8
        writer.add_rope_dimension_sections([2 * quarter, quarter, quarter, 0])


def add_vocabulary(writer: gguf.GGUFWriter, pieces: list[str], scores: list[float], types: list[int]) -> None:
    """A SentencePiece vocabulary that begins with SPECIAL_TOKENS, and the chat template that is written with them."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(IM_END)
    writer.add_unk_token_id(UNK)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHATML)


def _dtype(name: str, dimensions: tuple[int, ...]) -> np.dtype[np.floating]:
    """What llama.cpp computes with in single precision is stored so."""
    is_single = len(dimensions) == 1 or any(part in name for part in ("conv1d", ".conv.", "ssm_a", "ssm_d", "ssm_norm"))
    return np.dtype(np.float32 if is_single else np.float16)


def write_tensors(
    writer: gguf.GGUFWriter,
    shapes: dict[str, tuple[int, ...]],
    make: Callable[[str], np.ndarray],
    dtype_of: Callable[[str, tuple[int, ...]], np.dtype[np.floating]] = _dtype,
) -> None:
    """Writes the file; `make` gives one tensor after the other, so that one at a time is in memory."""
    for name, dimensions in shapes.items():
        dtype = dtype_of(name, dimensions)
        writer.add_tensor_info(name, dimensions, dtype, int(np.prod(dimensions)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in shapes:
        writer.write_tensor_data(make(name))
    writer.close()


def piece_type(piece: str) -> int:
    """Control, byte or plain, by its spelling."""
    if piece in SPECIAL_TOKENS:
        return _UNKNOWN if piece == SPECIAL_TOKENS[UNK] else _CONTROL
    return _BYTE if len(piece) == 6 and piece.startswith("<0x") else _NORMAL


def _write_f16(path: Path, shape: Shape, rng: np.random.Generator) -> None:
    writer = new_writer(path, shape)
    writer.add_name(f"{shape.name} (random weights)")
    writer.add_author("Turnpike")
    writer.add_license("Apache-2.0")
    add_vocabulary(writer, *vocabulary(shape.num_vocab))
    block = rng.standard_normal(_BLOCK, dtype=np.float32)

    def tensor(name: str) -> np.ndarray:
        dimensions = shapes[name]
        if name.endswith("ssm_a") and shape.hybrid:
            return np.linspace(-0.5, -0.02, dimensions[0], dtype=np.float32).reshape(
                dimensions
            )  # some heads forget late
        if name.endswith("ssm_a"):
            return np.tile(-np.arange(1, dimensions[1] + 1, dtype=np.float32), (dimensions[0], 1))
        if name.endswith(".bias"):
            return np.zeros(dimensions, dtype=np.float32)
        if len(dimensions) == 1 or name.endswith(("ssm_d", "ssm_norm.weight")):
            return np.ones(dimensions, dtype=np.float32)  # Gemma's norms are stored plus one by its converter
        # One block of noise, rolled and tiled: random enough, and quick at three billion weights.
        noise = np.roll(block, int(rng.integers(_BLOCK))) * dimensions[-1] ** -0.5
        return np.resize(noise.astype(_dtype(name, dimensions)), int(np.prod(dimensions))).reshape(dimensions)

    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.num_vocab, shape.num_embd)}
    shapes |= block_shapes(shape)
    # llama.cpp has always looked for LFM-2's under this name.
    norm = "token_embd_norm.weight" if shape.conv_length else "output_norm.weight"
    shapes |= {norm: (shape.num_embd,), "output.weight": (shape.num_vocab, shape.num_embd)}
    write_tensors(writer, shapes, tensor)


def main() -> None:
    """`python -m workers.llama.random_model SHAPE QUANTIZATION PATH`"""
    parser = argparse.ArgumentParser(prog="python -m workers.llama.random_model", description="Writes a random model.")
    for name in ("shape", "quantization", "path"):
        parser.add_argument(name)
    named = parser.parse_args()
    write_model(Path(named.path), named.shape, named.quantization)


if __name__ == "__main__":
    main()
