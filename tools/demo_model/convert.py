"""Makes the GGUF file of what train.py left in a folder. Runs in the project's own environment.

python tools/demo_model/convert.py FOLDER FILE [Q8_0|Q4_0|F16]
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from workers.llama.random_model import (
    add_vocabulary,
    new_writer,
    piece_type,
    quantize,
    write_tensors,
)
from workers.llama.shapes import Shape

COMMAND = "sh tools/demo_model/make.sh"


def write_f16(folder: Path, path: Path) -> None:
    """The unquantised file: llama's tensors by GGUF's names, which train.py's modules already bear."""
    training = json.loads((folder / "training.json").read_text())
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    fields = {name: training[name] for name in ("num_embd", "num_layers", "num_heads", "num_kv_heads", "num_ff")}
    shape = Shape("demo", **fields, num_vocab=len(vocabulary), num_ctx=training["num_ctx"])
    writer = new_writer(path, shape)
    writer.add_name("Turnpike demo")
    writer.add_author("Turnpike")
    writer.add_license("Apache-2.0")
    writer.add_description("A very small model that talks about radio sites and edge nodes; see its card.")
    writer.add_string("turnpike.training_command", COMMAND)
    writer.add_string("turnpike.corpus_sha256", training["corpus_sha256"])
    writer.add_string("turnpike.training", json.dumps(training, sort_keys=True))
    pieces = [piece for piece, _ in vocabulary]
    add_vocabulary(writer, pieces, [score for _, score in vocabulary], [piece_type(piece) for piece in pieces])
    writer.add_add_space_prefix(False)
    with np.load(folder / "weights.npz") as weights:
        # Tied embeddings: llama.cpp takes token_embd where there is no output.
        shapes = {name: weights[name].shape for name in weights.files}

        def tensor(name: str) -> np.ndarray:
            return weights[name].astype(np.float32 if weights[name].ndim == 1 else np.float16)

        write_tensors(writer, shapes, tensor)


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: python tools/demo_model/convert.py FOLDER FILE [Q8_0|Q4_0|F16]")
    folder, path = Path(sys.argv[1]), Path(sys.argv[2])
    quantization = sys.argv[3] if len(sys.argv) > 3 else "Q8_0"
    unquantized = path.with_suffix(".f16")
    try:
        write_f16(folder, unquantized)
        quantize(unquantized, path, quantization)
    finally:
        unquantized.unlink(missing_ok=True)
    print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
