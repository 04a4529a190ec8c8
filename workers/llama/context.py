"""One model in one llama.cpp context: the engine. All but the vocabulary belongs to one thread."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import llama_cpp.llama_cpp as lib
import numpy as np

from broker.messages import Sampling, TokenLogprob
from workers.engine.protocol import MAX_OUTPUTS, EngineLost, Foresee, KvCacheFull, Span, State
from workers.engine.scheduler import MIN_PREFILL_TOKENS
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText
from workers.llama.adjustments import Logits
from workers.llama.backend import has_grouped_attention, messages
from workers.llama.loaded_file import LoadedFile, reason_in
from workers.llama.sampler import LlamaSampler, logprob_of
from workers.llama.state_form import StateForm
from workers.llama.thread_pools import PooledThreads
from workers.llama.tiles import FLASH_TILE, padding_of
from workers.llama.vocabulary import LlamaVocabulary, tokens_of
from workers.machine.memory import KvShape
from workers.machine.model_shape import shape_in
from workers.model_file import ModelFileError, answering_parts
from workers.prompts.chat_template import ChatTemplate, of_model

KvType = Literal["f16", "q8_0"]
_KV_TYPES = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0}


@dataclass(frozen=True)
class ContextOptions:
    """How a context is made."""

    num_ctx: int = 8192
    num_slots: int = 8
    num_threads: int = 1
    num_ubatch: int = 256
    max_batch_tokens: int = 2048
    flash_attention: bool = True
    kv_type: KvType = "f16"
    """q8_0 takes 17/32 of f16's bytes and wants flash attention."""


class LlamaModel(LoadedFile):
    """A loaded model of text, with its vocabulary and its chat template."""

    def __init__(
        self,
        path: Path,
        *,
        vocab_only: bool = False,
        is_paged: bool = False,
        chat_template: str | None = None,
        of_catalogue: str = "",
        heard: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`chat_template` is a name or a file that goes before what the model file has; `of_catalogue` the name of what
        stands in for a file's that has none; all else is `LoadedFile`'s. Raises ModelFileError, SettingsError."""
        super().__init__(answering_parts(path), vocab_only=vocab_only, is_paged=is_paged, heard=heard)
        if lib.llama_model_has_encoder(self.pointer) or lib.llama_model_is_diffusion(self.pointer):
            super().close()
            raise ModelFileError(self.path, "is of a kind of model that is not served here")
        self.template = self._template(chat_template, of_catalogue)
        self.vocabulary = LlamaVocabulary(self.pointer, self.template.text, self.path)

    def _template(self, given: str | None, of_catalogue: str) -> ChatTemplate:
        found = lib.llama_model_chat_template(self.pointer, None)
        vocab = lib.llama_model_get_vocab(self.pointer)
        return of_model(
            given,
            found.decode("utf-8", "replace") if found else None,
            of_catalogue,
            is_token=lambda text: len(tokens_of(vocab, text, parse_special=True)) == 1,
        )

    @property
    def chat_template(self) -> str:
        """The Jinja text of its template."""
        return self.template.text

    @property
    def is_recurrent(self) -> bool:
        """Whether it keeps, in some layer at least, one state a sequence and not one a token."""
        return bool(lib.llama_model_is_recurrent(self.pointer) or lib.llama_model_is_hybrid(self.pointer))

    @property
    def sliding_window(self) -> int:
        """Tokens that some of its layers look back; 0 where all look back to the beginning."""
        return int(lib.llama_model_n_swa(self.pointer))

    @property
    def kv_shape(self) -> KvShape:
        """What a token of context costs, and a sequence."""
        return shape_in(self.path)

    def close(self) -> None:
        """Frees the model; its contexts must be gone."""
        self.vocabulary.matcher_process.close()
        super().close()


class LlamaEngine(PooledThreads):
    """Implements workers.engine.protocol.Engine."""

    def __init__(self, model: LlamaModel, options: ContextOptions, pools_of: PooledThreads | None = None) -> None:
        self._model = model
        self.vocabulary = model.vocabulary
        found = messages()
        found.lines.clear()
        found.buffers.clear()
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = options.num_ctx
        parameters.n_batch = options.max_batch_tokens
        parameters.n_ubatch = min(options.num_ubatch, options.max_batch_tokens)
        parameters.n_seq_max = options.num_slots
        parameters.n_threads = options.num_threads
        parameters.n_threads_batch = options.num_threads
        # One pool of cells for all: without it a partial copy of a sequence aborts the process.
        parameters.kv_unified = True
        parameters.flash_attn_type = (
            lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if options.flash_attention else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        parameters.type_k = parameters.type_v = _KV_TYPES[options.kv_type]
        # Making a context takes one output for each sequence at least, however few a batch has.
        parameters.n_outputs_max = max(MAX_OUTPUTS, options.num_slots)
        parameters.swa_full = False
        parameters.no_perf = True
        context = lib.llama_init_from_model(model.pointer, parameters)
        if not context:
            why = next((line for line in reversed(found.lines) if "fail" in line or "error" in line), "")
            raise ModelFileError(
                model.path,
                f"llama.cpp cannot make a context of {options.num_ctx} tokens for it: {reason_in(why)}",
            )
        super().__init__(context, options.num_threads, pools_of)
        self.buffers = model.buffers | found.buffers
        self._memory = lib.llama_get_memory(self._context)
        self.num_slots = options.num_slots
        self.num_ctx = int(lib.llama_n_ctx(self._context))
        self._form = StateForm.of(model.pointer, self.num_ctx)
        self.max_sequence_tokens = min(self.num_ctx, model.num_ctx_train or self.num_ctx)
        self.max_batch_tokens = options.max_batch_tokens
        self.max_batch_outputs = MAX_OUTPUTS
        self._is_recurrent = model.is_recurrent
        self.window = model.sliding_window
        self.can_remove_part = not self._is_recurrent and not self.window
        is_tiled = options.flash_attention and not has_grouped_attention()
        self._fills_tiles = is_tiled and self.can_remove_part
        self.min_prefill_tokens = FLASH_TILE if is_tiled else MIN_PREFILL_TOKENS
        self._batch = lib.llama_batch_init(options.max_batch_tokens, 0, 1)

    def decode(self, spans: list[Span]) -> list[list[int]]:
        """Computes a step; the rows of each span's logits. Raises KvCacheFull, EngineLost."""
        rows, num_tokens = self._fill(spans)
        padding = padding_of(spans, num_tokens) if self._fills_tiles else 0
        code = self._process(num_tokens, spans[-1], padding)
        if padding and code == 1:
            # No cells for the padding, which never was needed.
            code = self._process(num_tokens, spans[-1], 0)
        match code:
            case 0:
                return rows
            case 1:
                raise KvCacheFull
            case _:
                raise EngineLost(code)

    def _fill(self, spans: list[Span]) -> tuple[list[list[int]], int]:
        """Writes the spans into the batch; the rows of their logits, and how many tokens there are."""
        batch = self._batch
        rows: list[list[int]] = []
        at = 0
        for span in spans:
            outputs = []
            for position, token in enumerate(span.tokens, span.start):
                wanted = position >= span.first_output
                self._put(at, token, position, span.slot, wanted)
                if wanted:
                    outputs.append(at)
                at += 1
            rows.append(outputs)
        batch.n_tokens = at
        return rows, at

    def _put(self, at: int, token: int, position: int, slot: int, wanted: bool) -> None:
        batch = self._batch
        batch.token[at] = token
        batch.pos[at] = position
        batch.n_seq_id[at] = 1
        batch.seq_id[at][0] = slot
        batch.logits[at] = wanted

    def _process(self, num_tokens: int, last: Span, padding: int) -> int:
        """llama_decode of the batch and some padding behind its last span, which sees none of it and is rid of it."""
        for index in range(padding):
            self._put(num_tokens + index, last.tokens[-1], last.end + index, last.slot, False)
        self._batch.n_tokens = num_tokens + padding
        code = int(lib.llama_decode(self._context, self._batch))
        if padding and code == 0:
            self.truncate(last.slot, last.end)
        return code

    def logits(self, row: int) -> Logits:
        """The logits of one row of the last step: a view into llama.cpp's buffer, valid until the next step."""
        pointer = lib.llama_get_logits_ith(self._context, row)
        if not pointer:
            raise EngineLost(row)
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary.num_tokens,))

    def sampler(
        self,
        sampling: Sampling,
        tokens: list[int],
        grammar: HeldText | CallFollower | None,
        foresee: Foresee | None = None,
        num_answered: int = 0,
    ) -> LlamaSampler:
        """What chooses the tokens of one answer. Raises TurnRejected."""
        return LlamaSampler(self.vocabulary, self.logits, sampling, tokens, grammar, foresee, num_answered)

    def logprob(self, row: int, token: int, num_top: int) -> TokenLogprob:
        """The token's log-probability in a row of the last step's logits, and the likeliest tokens'."""
        return logprob_of(self.logits(row), token, num_top)

    def is_likeliest(self, row: int, token: int) -> bool:
        """Whether no token is likelier in a row of the last step's logits; the first of equals is."""
        return int(self.logits(row).argmax()) == token

    def is_whole(self, slot: int, num_tokens: int) -> bool:
        """Whether what llama.cpp keeps of a sequence can be gone on with behind its first `num_tokens` tokens."""
        if num_tokens == 0:
            return True
        first = lib.llama_memory_seq_pos_min(self._memory, slot)
        last = lib.llama_memory_seq_pos_max(self._memory, slot)
        if self._is_recurrent:
            # One state a sequence, which is that of its last token and of no other.
            return bool(last == num_tokens - 1)
        # llama.cpp keeps all positions between the two, and of a window's layers drops the oldest ones.
        least = max(0, num_tokens - self.window + 1) if self.window else 0
        return bool(0 <= first <= least and last >= num_tokens - 1)

    def truncate(self, slot: int, num_tokens: int) -> bool:
        """Forgets a slot's tokens from position `num_tokens` on; False, and nothing is, where it cannot be."""
        # llama.cpp itself says true of a window that is not there any more.
        if not self.is_whole(slot, num_tokens):
            return False
        return bool(lib.llama_memory_seq_rm(self._memory, slot, num_tokens, -1))

    def copy(self, source: int, target: int, num_tokens: int) -> bool:
        """Lets an empty slot share another one's first cells; False where those tokens are not whole."""
        if not self.is_whole(source, num_tokens):
            return False
        lib.llama_memory_seq_cp(self._memory, source, target, 0, num_tokens)
        # Of a window they are copied: llama.cpp takes back no cell that two sequences have.
        return not self.window or self.rewind(target, num_tokens, self.checkpoint(target))

    def checkpoint_bytes(self, slot: int) -> int:
        """Of what `checkpoint` would give."""
        return self._size(slot, lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)

    def checkpoint(self, slot: int) -> State:
        """A copy of what windows and recurrent layers have of a sequence; of a model without those, of all."""
        return self._read(slot, lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)

    def rewind(self, slot: int, num_tokens: int, checkpoint: State) -> bool:
        """Puts a checkpoint back and forgets what came after it; False, and the slot is empty, where it finds no
        cells."""
        is_sound = self._form.num_tokens(checkpoint, is_checkpoint=True) == num_tokens
        # llama.cpp replaces the part that it reads and leaves the layers that keep all tokens: those are cut then.
        flags = lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        if is_sound and self._write(slot, checkpoint, flags) and self.truncate(slot, num_tokens):
            return True
        self.truncate(slot, 0)
        return False

    def copy_rewound(self, source: int, target: int, num_tokens: int, checkpoint: State) -> bool:
        """Lets an empty slot share another one's first cells, with a checkpoint for what has moved on there."""
        lib.llama_memory_seq_cp(self._memory, source, target, 0, num_tokens)
        return self.rewind(target, num_tokens, checkpoint)

    def state_bytes(self, slot: int) -> int:
        """Of what `save` would give."""
        return self._size(slot, lib.LLAMA_STATE_SEQ_FLAGS_NONE)

    def save(self, slot: int) -> bytearray:
        """A copy of a sequence's state."""
        return self._read(slot, lib.LLAMA_STATE_SEQ_FLAGS_NONE)

    def restore(self, slot: int, state: State) -> bool:
        """Puts a state into an empty slot; False where llama.cpp does not take it."""
        is_sound = self._form.num_tokens(state) is not None
        if is_sound and self._write(slot, state, lib.LLAMA_STATE_SEQ_FLAGS_NONE):
            return True
        self.truncate(slot, 0)
        return False

    def _size(self, slot: int, flags: int) -> int:
        return int(lib.llama_state_seq_get_size_ext(self._context, slot, flags))

    def _read(self, slot: int, flags: int) -> bytearray:
        state = bytearray(self._size(slot, flags))
        buffer = (ctypes.c_uint8 * len(state)).from_buffer(state)
        num_written = int(lib.llama_state_seq_get_data_ext(self._context, buffer, len(state), slot, flags))
        if num_written != len(state):
            raise EngineLost(num_written)
        return state

    def _write(self, slot: int, state: State, flags: int) -> bool:
        # Its own memory is read, not a copy: a state is hundreds of megabytes.
        buffer = np.frombuffer(state, np.uint8).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return int(lib.llama_state_seq_set_data_ext(self._context, buffer, len(state), slot, flags)) == len(state)

    def close(self) -> None:
        """Frees the context."""
        if self._context:
            lib.llama_batch_free(self._batch)
            lib.llama_free(self._context)
            self._end_threads()
            self._context = None
