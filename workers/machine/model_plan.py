"""The memory plan of a model by settings, and what a draft model adds to it; of one of the catalogue before any file of
it is here: for systemd units, manifests and `turnpike models list`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from broker.catalogue import Entry
from workers.engine.protocol import MAX_OUTPUTS
from workers.machine.embedding_plan import plan_embedding
from workers.machine.memory import DraftSize, KvShape, MemoryPlan, check_memory, plan_memory
from workers.machine.model_shape import shape_in
from workers.model_file import answering_parts, header, weight_bytes
from workers.settings import ComputeSettings, WorkerSettings, resident

LIMIT_HEADROOM_BYTES = 256 * 1024**2
"""Between what a worker plans and where its process or its pod is killed."""
PI5_BANDWIDTH_BYTES = (11.4e9, 12.5e9)
"""What a Raspberry Pi 5 reads from memory in a second, sustained, at least and at most."""


def kv_shape(entry: Entry) -> KvShape:
    """What the memory plan wants to know of a model; what a catalogue has not, as large models have it at most: a
    recurrent layer twice as wide as the others, merges as many as tokens."""
    num_layers, num_embd, num_heads, num_ff, num_vocab = entry.shape
    return KvShape(
        num_layers,
        entry.kv_bytes_per_token,
        num_embd,
        num_vocab,
        num_heads,
        num_ff,
        entry.window,
        entry.window_bytes_per_token,
        entry.state_bytes,
        # Twice the states of a layer, where three layers of four have one.
        work_bytes=2 * entry.state_bytes // (num_layers * 3 // 4),
        num_inner=2 * num_embd if entry.state_bytes else 0,
        num_merges=num_vocab,
    )


def plan(entry: Entry, num_ctx: int, resident_bytes: int | None = None, draft: DraftSize | None = None) -> MemoryPlan:
    """A worker's with default settings and a context of `num_ctx` tokens; of weights `resident_bytes` at most."""
    if entry.memory == "none":
        return plan_embedding(kv_shape(entry), entry.size_bytes, min(entry.context, num_ctx))
    return plan_memory(
        kv_shape(entry),
        weight_bytes=resident(entry.size_bytes, resident_bytes),
        num_ctx=num_ctx,
        num_ubatch=WorkerSettings().num_ubatch,
        max_outputs=MAX_OUTPUTS,
        flash_attention=True,
        draft=draft,
    )


def plan_of(parts: Sequence[Path], config: ComputeSettings, available: int) -> tuple[MemoryPlan, int]:
    """A worker's of a model's files, by what they say of themselves, and the tokens of its context: before anything is
    loaded, which takes memory that the plan counts, and is not there any more where weights are copied. Raises
    DoesNotFit, ModelFileError."""
    head = header(parts[0])
    trained = head.values.get(f"{head.values.get('general.architecture')}.context_length")
    num_ctx = config.num_ctx
    if config.deterministic and isinstance(trained, int) and trained > 0:
        num_ctx = min(num_ctx, trained)
    plan = check_memory(
        shape_in(parts[0], head).quantized(config.kv_type),
        weight_bytes=resident(weight_bytes(parts), config.resident_bytes),
        num_ctx=num_ctx,
        num_ubatch=config.num_ubatch,
        max_outputs=max(MAX_OUTPUTS, config.num_slots),
        flash_attention=not config.deterministic,
        available=available,
        offload_cache=config.park_bytes,
        num_slots=1 if config.deterministic else config.num_slots,
        draft=draft_size(config),
    )
    return plan, num_ctx


def draft_size(config: ComputeSettings) -> DraftSize | None:
    """Of the draft model of the settings, by its header; None without one. Raises ModelFileError."""
    if config.draft_file is None:
        return None
    parts = answering_parts(config.draft_file)
    return DraftSize(shape_in(parts[0]).quantized(config.kv_type), weight_bytes(parts))
