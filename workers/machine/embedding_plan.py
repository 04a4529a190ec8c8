"""The sizes of an embedding worker's context, by its model's header and the settings, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.machine.memory import CELLS, DoesNotFit, KvShape, MemoryPlan
from workers.machine.model_shape import shape_in
from workers.model_file import header, weight_bytes
from workers.settings import ComputeSettings

BATCH_TOKENS = 256
"""Of a step, where texts are shorter. More are slower, as each token is held against all of the step's, other texts'
too; fewer are not quicker, and with several threads slower."""
MAX_BATCH_TEXTS = 64
_WITHOUT_CACHE = frozenset(
    (
        *("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3"),
        *("eurobert", "gemma-embedding"),
    )
)
"""Architectures that see a text at once (llama_model::create_memory); others keep each token's keys and values."""
_POOLED = (1, 2, 3)


@dataclass(frozen=True)
class EmbeddingSizes:
    """Tokens."""

    max_text_tokens: int
    """Of the longest text."""
    has_pooling: bool
    """Whether the file says how a text's vector is made of its tokens'."""

    @property
    def num_ubatch(self) -> int:
        """What is computed at once: a text that is seen at once cannot be cut."""
        return max(BATCH_TOKENS, self.max_text_tokens)

    @property
    def max_batch_tokens(self) -> int:
        """Of a step with several texts."""
        return BATCH_TOKENS


def embedding_plan(parts: Sequence[Path], config: ComputeSettings, available: int) -> tuple[MemoryPlan, EmbeddingSizes]:
    """Of a model's files. Raises DoesNotFit, ModelFileError."""
    head = header(parts[0])
    architecture = str(head.values.get("general.architecture"))
    trained = head.values.get(f"{architecture}.context_length")
    most = trained if isinstance(trained, int) and trained > 0 else config.num_ctx
    pooling = head.values.get(f"{architecture}.pooling_type")
    shape, weights = shape_in(parts[0], head), weight_bytes(parts)

    def plan(num_ctx: int) -> tuple[MemoryPlan, EmbeddingSizes]:
        sizes = EmbeddingSizes(min(most, num_ctx), pooling in _POOLED)
        has_cache = architecture not in _WITHOUT_CACHE
        return plan_embedding(shape, weights, sizes.max_text_tokens, has_cache=has_cache), sizes

    found, sizes = plan(config.num_ctx)
    if found.needed <= available:
        return found, sizes
    fitting = [num for num in range(CELLS, sizes.max_text_tokens, CELLS) if plan(num)[0].needed <= available]
    raise DoesNotFit(found, available, sizes.max_text_tokens, max(fitting, default=0))


def plan_embedding(shape: KvShape, weights: int, max_text_tokens: int, *, has_cache: bool = False) -> MemoryPlan:
    """For texts of so many tokens; `has_cache`: the model keeps each token's keys and values while it computes."""
    num_tokens = max(BATCH_TOKENS, max_text_tokens)
    # llama_context::encode: the mask, and of each token the feed-forward and what attention works on (flash attention).
    compute = num_tokens * (2 * num_tokens + 4 * (2 * shape.num_ff + 6 * shape.num_embd))
    # llama_context::output_reserve: a row of logits for each token, which nobody computes, is cleared all the same.
    outputs = 4 * num_tokens * (shape.num_embd + shape.num_vocab)
    kv = shape.bytes_per_young_token * num_tokens if has_cache else 0
    return MemoryPlan(weights, kv, compute + outputs, shape.process_bytes, num_slots=MAX_BATCH_TEXTS)
