"""A model that makes vectors, in one llama.cpp context: many texts a step, each a sequence of its own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from workers.embedding.protocol import Tokens
from workers.engine.protocol import EngineLost
from workers.llama.backend import messages
from workers.llama.loaded_file import LoadedFile, reason_in
from workers.machine.embedding_plan import MAX_BATCH_TEXTS, EmbeddingSizes
from workers.model_file import ModelFileError, served_parts


class EmbeddingModel(LoadedFile):
    """A loaded model that makes vectors."""

    def __init__(self, path: Path, *, heard: Callable[[float], None] = lambda _: None) -> None:
        """Raises ModelFileError."""
        super().__init__(served_parts(path), heard=heard)
        if lib.llama_model_has_encoder(self.pointer) and lib.llama_model_has_decoder(self.pointer):
            self.close()
            raise ModelFileError(self.path, "is of a kind of model that is not served here")

    @property
    def num_tokens(self) -> int:
        """Of its vocabulary."""
        return int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.pointer)))

    @property
    def dimension(self) -> int:
        """Values of a vector."""
        return int(lib.llama_model_n_embd_out(self.pointer))


class LlamaEmbedder:
    """Implements workers.embedding.protocol.Embedder."""

    def __init__(self, model: EmbeddingModel, sizes: EmbeddingSizes) -> None:
        """`sizes` are those of its plan."""
        self._vocab = lib.llama_model_get_vocab(model.pointer)
        self.dimension = model.dimension
        self.num_tokens = model.num_tokens
        """Of its vocabulary."""
        self.max_text_tokens = sizes.max_text_tokens
        self.max_batch_tokens = sizes.max_batch_tokens
        self.max_batch_texts = MAX_BATCH_TEXTS
        self._has_end = bool(lib.llama_vocab_get_add_eos(self._vocab) or lib.llama_vocab_get_add_sep(self._vocab))
        self._context = self._made(model, sizes)
        self._memory = lib.llama_get_memory(self._context)
        self._batch = _Batch(sizes.num_ubatch)

    def _made(self, model: EmbeddingModel, sizes: EmbeddingSizes) -> Any:
        found = messages()
        found.lines.clear()
        found.buffers.clear()
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = sizes.num_ubatch
        parameters.n_seq_max = MAX_BATCH_TEXTS
        parameters.kv_unified = True
        parameters.embeddings = True
        parameters.pooling_type = (
            lib.LLAMA_POOLING_TYPE_UNSPECIFIED if sizes.has_pooling else lib.LLAMA_POOLING_TYPE_MEAN
        )
        parameters.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        parameters.no_perf = True
        context = lib.llama_init_from_model(model.pointer, parameters)
        if not context:
            why = next((line for line in reversed(found.lines) if "fail" in line or "error" in line), "")
            raise ModelFileError(model.path, f"llama.cpp cannot make a context for it: {reason_in(why)}")
        self.buffers = model.buffers | found.buffers
        return context

    def tokens_of(self, text: str, *, is_bare: bool = False) -> list[int]:
        """Of a text, with what the model wants around it; a bare one's without. Control tokens that it spells are text.
        Of any thread."""
        data = text.encode()
        capacity = len(data) + 16
        while True:
            buffer = (lib.llama_token * capacity)()
            count = lib.llama_tokenize(self._vocab, data, len(data), buffer, capacity, not is_bare, False)
            if count >= 0:
                return list(buffer[:count])
            capacity = -count

    def cut(self, tokens: Tokens) -> Tokens:
        """As many of a text's tokens as the model takes; what ends a text ends it still."""
        if len(tokens) <= self.max_text_tokens:
            return tokens
        if not self._has_end:
            return tokens[: self.max_text_tokens]
        return [*tokens[: self.max_text_tokens - 1], tokens[-1]]

    def embed(self, batch: Sequence[Tokens], num_threads: int) -> list[bytes]:
        """The vector of each text, as the model pools it. Raises EngineLost."""
        lib.llama_set_n_threads(self._context, num_threads, num_threads)
        if self._memory:
            lib.llama_memory_clear(self._memory, False)
        code = int(lib.llama_decode(self._context, self._batch.of(batch)))
        if code != 0:
            raise EngineLost(code)
        return [self._vector(index) for index in range(len(batch))]

    def _vector(self, index: int) -> bytes:
        pointer = lib.llama_get_embeddings_seq(self._context, index)
        if not pointer:
            raise EngineLost(index)
        return np.ctypeslib.as_array(pointer, shape=(self.dimension,)).astype("<f4").tobytes()

    def close(self) -> None:
        """Frees the context."""
        if self._context:
            lib.llama_free(self._context)
            self._context = None


class _Batch:
    """A batch in columns. Each token has one sequence, and is an output."""

    def __init__(self, num_tokens: int) -> None:
        self._tokens = np.zeros(num_tokens, np.int32)
        self._positions = np.zeros(num_tokens, np.int32)
        self._sequences = np.zeros(num_tokens, np.int32)
        self._one = np.ones(num_tokens, np.int32)
        self._is_output = np.ones(num_tokens, np.int8)
        # A pointer for each token: to its place in the column.
        self._pointers = self._sequences.ctypes.data + 4 * np.arange(num_tokens, dtype=np.uintp)
        self._kind: dict[str, Any] = {field[0]: field[1] for field in lib.llama_batch._fields_}

    def of(self, texts: Sequence[Tokens]) -> Any:
        """The `llama_batch` of these texts, until the next one. In columns: a loop over tokens would hold the
        interpreter's lock with a thread of low priority."""
        lengths = [len(tokens) for tokens in texts]
        total = sum(lengths)
        self._tokens[:total] = np.concatenate([np.asarray(tokens, np.int32) for tokens in texts])
        self._positions[:total] = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        self._sequences[:total] = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
        return lib.llama_batch(
            n_tokens=total,
            token=self._pointer("token", self._tokens),
            embd=None,
            pos=self._pointer("pos", self._positions),
            n_seq_id=self._pointer("n_seq_id", self._one),
            seq_id=self._pointer("seq_id", self._pointers),
            logits=self._pointer("logits", self._is_output),
        )

    def _pointer(self, name: str, column: np.ndarray) -> Any:
        return ctypes.cast(column.ctypes.data, self._kind[name])
