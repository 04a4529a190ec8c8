"""BERT in NumPy, after its paper (Devlin et al. 2018, arXiv 1810.04805): what a GGUF file's vectors should be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np


class Bert:
    """The model of a file."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self._tensors = {one.name: np.asarray(one.data, np.float32) for one in reader.tensors}

        def value(name: str) -> float:
            return float(reader.fields[f"bert.{name}"].parts[-1][0])

        self._num_layers, self._num_heads = int(value("block_count")), int(value("attention.head_count"))
        self._eps = value("attention.layer_norm_epsilon")

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        """The mean of all tokens' last states, of length 1."""
        table = self._tensors
        x = table["token_embd.weight"][list(tokens)] + table["position_embd.weight"][: len(tokens)]
        x = self._norm(x + table["token_types.weight"][0], "token_embd_norm")
        for layer in range(self._num_layers):
            x = self._layer(x, f"blk.{layer}.")
        mean = x.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean))

    def _layer(self, x: np.ndarray, at: str) -> np.ndarray:
        query, key, value = (self._heads(self._linear(x, f"{at}attn_{name}")) for name in "qkv")
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = (weights @ value).swapaxes(0, 1).reshape(x.shape)
        x = self._norm(x + self._linear(mixed, f"{at}attn_output"), f"{at}attn_output_norm")
        inner = self._linear(x, f"{at}ffn_up")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        return self._norm(x + self._linear(inner, f"{at}ffn_down"), f"{at}layer_output_norm")

    def _heads(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), self._num_heads, -1).swapaxes(0, 1)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        around = x - x.mean(axis=-1, keepdims=True)
        scaled = around / np.sqrt((around**2).mean(axis=-1, keepdims=True) + self._eps)
        return scaled * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]
