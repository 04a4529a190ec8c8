"""A draft model: a small model of the same vocabulary that proposes what a larger one may say next."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np

from workers.engine.calibration import calibrate
from workers.engine.draft_context import DraftContext
from workers.engine.protocol import EngineError, Span
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel
from workers.model_file import ModelFileError

MAX_PADDING = 128
"""Tokens that one of two vocabularies may have more: sizes are filled up to round numbers, which differ."""

log = logging.getLogger(__name__)


def load_draft_model(path: Path, target: LlamaModel) -> LlamaModel:
    """The draft model of a file, for the target. Raises ModelFileError for one that cannot be that."""
    if reason := _why_not_for(target):
        raise ModelFileError(target.path, f"nothing can be drafted for it: it {reason}")
    model = LlamaModel(path)
    reason = _why_not_for(model) or difference(model, target)
    if reason:
        model.close()
        raise ModelFileError(model.path, f"cannot draft for {target.path.name}: it {reason}")
    return model


def _why_not_for(model: LlamaModel) -> str | None:
    if model.is_recurrent:
        return "has recurrent layers, which cannot take a wrong guess back"
    return "has sliding windows, which cannot take a wrong guess back" if model.sliding_window else None


def difference(draft: LlamaModel, target: LlamaModel) -> str | None:
    """What the draft's vocabulary has otherwise than the target's; None where a token is the same to both."""
    theirs, ours = draft.vocabulary, target.vocabulary
    if lib.llama_vocab_type(theirs.pointer) != lib.llama_vocab_type(ours.pointer):
        return "has another kind of vocabulary"
    if abs(theirs.num_tokens - ours.num_tokens) > MAX_PADDING:
        return f"has another vocabulary: {theirs.num_tokens:,} tokens, not {ours.num_tokens:,}"
    both = range(min(theirs.num_tokens, ours.num_tokens))
    other = [token for token in both if theirs.text(token) != ours.text(token)]
    if not other:
        return None
    first = f"token {other[0]:,} is {theirs.text(other[0])!r}, not {ours.text(other[0])!r}"
    return f"has another vocabulary: {len(other):,} of {len(both):,} tokens are others ({first})"


class LlamaDraft(LlamaEngine):
    """Implements workers.engine.protocol.DraftModel. It computes with the target's threads, as many as that has."""

    def __init__(self, model: LlamaModel, options: ContextOptions, target: LlamaEngine) -> None:
        """Raises ModelFileError."""
        super().__init__(model, options, pools_of=target)
        self._target = target
        self.num_tokens = min(model.vocabulary.num_tokens, target.vocabulary.num_tokens)

    def decode(self, spans: list[Span]) -> list[list[int]]:
        """Computes a step; the rows of each span's logits. Raises KvCacheFull, EngineLost."""
        if (self.num_threads, self.poll) != (self._target.num_threads, self._target.poll):
            self.poll = self._target.poll
            self.num_threads = self._target.num_threads
        return super().decode(spans)

    def likeliest(self, row: int) -> tuple[int, float]:
        """The likeliest token in a row of the last step's logits, of those of the target, and its probability."""
        logits = self.logits(row)[: self.num_tokens]
        best = int(logits.argmax())
        return best, 1 / float(np.exp(logits - logits[best]).sum())


def open_draft(
    path: Path, target: LlamaModel, engine: LlamaEngine, options: ContextOptions, cleanup: ExitStack
) -> DraftContext:
    """The context of a file's draft model, which follows sequences in it, its steps measured; `cleanup` closes it, and
    has to close the engine after it. Raises ModelFileError."""
    model = load_draft_model(path, target)
    cleanup.callback(model.close)
    draft = LlamaDraft(model, options, engine)
    cleanup.callback(draft.close)
    try:
        costs = calibrate(draft, guesses=True).costs()
    except EngineError as error:
        raise ModelFileError(model.path, f"llama.cpp cannot compute with it: {error}") from None
    sizes = " ".join(f"{name.replace(' ', '_')}={size / 2**20:.0f}MiB" for name, size in draft.buffers.items())
    log.info(
        "draft model=%s a token=%.1fms a prompt's token=%.2fms, llama.cpp has %s",
        model.path.name,
        1000 * costs.decode(1),
        1000 * costs.prefill_seconds_per_token,
        sizes,
    )
    return DraftContext(draft, costs)
