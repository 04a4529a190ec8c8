"""A model's files as llama.cpp has loaded them, whatever the model is for."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from workers.llama.backend import messages, progress
from workers.model_file import ModelFileError, weight_bytes


def reason_in(line: str) -> str:
    """What a line of llama.cpp's log says, without the function that says it."""
    return line.partition(": ")[2] or line or "no reason given"


class LoadedFile:
    """A loaded model; `close` frees it."""

    def __init__(
        self,
        parts: Sequence[Path],
        *,
        vocab_only: bool = False,
        is_paged: bool = False,
        heard: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Of its files `parts`. With `is_paged` the weights stay in the mapped file alone, so that the system may drop
        and read them again; else llama.cpp makes copies in a layout that is quicker to compute with. `heard` is told
        how much is loaded, 0 to 1. Raises ModelFileError.
        """
        self.parts = list(parts)
        """Its files: one, or those that it was split into."""
        self.path = self.parts[0]
        found = messages()
        found.lines.clear()
        found.buffers.clear()
        parameters = lib.llama_model_default_params()
        parameters.vocab_only = vocab_only
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = not is_paged
        parameters.progress_callback = progress(heard)
        self.pointer: Any = lib.llama_model_load_from_file(str(self.path).encode(), parameters)
        if not self.pointer:
            reason = next((line for line in found.lines if "error" in line.lower() or "fail" in line.lower()), "")
            raise ModelFileError(self.path, f"llama.cpp cannot load it: {reason_in(reason)}")
        self.buffers = dict(found.buffers)

    @property
    def file_bytes(self) -> int:
        """Of all its files."""
        return sum(part.stat().st_size for part in self.parts)

    @property
    def weight_bytes(self) -> int:
        """Of the tensors in all its files."""
        return weight_bytes(self.parts)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells this model's files from others: by their sizes and first and last mebibytes, as all takes seconds."""
        digest = hashlib.sha256()
        for part in self.parts:
            size = part.stat().st_size
            digest.update(str(size).encode())
            with part.open("rb") as file:
                digest.update(file.read(1 << 20))
                file.seek(max(0, size - (1 << 20)))
                digest.update(file.read())
        return digest.hexdigest()[:16]

    @property
    def name(self) -> str:
        """For people: the one in the file, or the file's own."""
        return self._metadata("general.name") or self.path.stem

    @property
    def quantization(self) -> str:
        """As llama.cpp names it: Q4_0, Q4_K - Medium, …; "unknown" where neither the file nor its tensors tell."""
        name = lib.llama_ftype_name(lib.llama_model_ftype(self.pointer)) or b""
        found = str(name.decode("utf-8", "replace").removeprefix("(guessed) "))
        return "unknown" if not found or found.startswith("unknown") else found

    @property
    def num_ctx_train(self) -> int:
        """Tokens of the longest sequence that it was trained for."""
        return int(lib.llama_model_n_ctx_train(self.pointer))

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(1024)
        length = lib.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else ""

    def close(self) -> None:
        """Frees the model; its contexts must be gone."""
        if self.pointer:
            lib.llama_model_free(self.pointer)
            self.pointer = None
