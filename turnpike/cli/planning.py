"""How much memory a worker will want, before there is one: for its unit's limit."""

from __future__ import annotations

from pathlib import Path

from workers.settings import WorkerSettings, resident


def planned_bytes(model: str, options: WorkerSettings) -> int:
    """The bytes of a worker's plan and some, for a model of the catalogue, a file, or the model that is shipped.

    Raises TurnpikeError for a model that is none of these.
    """
    from broker.catalogue import CATALOGUE, entry_of, known_models
    from workers.machine import model_plan
    from workers.models import DEMO

    if options.model_file is not None:
        return _file_plan(Path(options.model_file), options) + model_plan.LIMIT_HEADROOM_BYTES
    if model == DEMO.token:
        return 2 * model_plan.LIMIT_HEADROOM_BYTES
    entry = entry_of(model, known_models(Path(options.catalogue)), CATALOGUE.name)
    plan = model_plan.plan(entry, options.num_ctx, options.resident_bytes, model_plan.draft_size(options))
    return plan.total + model_plan.LIMIT_HEADROOM_BYTES


def _file_plan(path: Path, options: WorkerSettings) -> int:
    """The bytes of a plan for a model's file, as llama.cpp reads it."""
    from workers.engine.protocol import MAX_OUTPUTS
    from workers.llama.context import LlamaModel
    from workers.machine.embedding_plan import embedding_plan
    from workers.machine.memory import plan_memory
    from workers.machine.model_plan import draft_size
    from workers.model_file import embeds, served_parts

    if embeds(path):
        return embedding_plan(served_parts(path), options, 1 << 62)[0].total
    model = LlamaModel(path)
    try:
        plan = plan_memory(
            model.kv_shape,
            weight_bytes=resident(model.weight_bytes, options.resident_bytes),
            num_ctx=options.num_ctx,
            num_ubatch=options.num_ubatch,
            max_outputs=max(MAX_OUTPUTS, options.num_slots),
            flash_attention=True,
            num_slots=options.num_slots,
            draft=draft_size(options),
        )
    finally:
        model.close()
    return plan.total
