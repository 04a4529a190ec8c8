"""What a model's files say of it: kind, size, template, and what it takes and gives. For `turnpike models show`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from broker.catalogue import Entry, Locked, Memory
from broker.messages.boards import ModelFile
from workers.architectures import KNOWN
from workers.engine.protocol import MAX_OUTPUTS
from workers.gguf_header import Header, Tensor, Value
from workers.machine.embedding_plan import plan_embedding
from workers.machine.memory import ROUND_CTX, KvShape, MemoryPlan, largest_ctx, plan_memory
from workers.machine.model_plan import PI5_BANDWIDTH_BYTES
from workers.machine.model_shape import active_bytes, active_parameters, num_parameters, shape_in
from workers.model_file import embeds, header, served_parts
from workers.settings import WorkerSettings

TEMPLATE_KEY = "tokenizer.chat_template"
THINKING = ("<think", "enable_thinking", "reasoning_content", "thinking", "<|channel")
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
}  # fmt: skip
"""llama_ftype of llama.h, which a file has as general.file_type, by the names of llama-quantize."""
CONVERSATION_TOKENS = 1000
MOST = 2**53
"""Of a count that a damaged header makes: whoever reads it may have no larger one."""


class ModelFacts(Struct, frozen=True):
    """Of one model, on this machine. Bytes, tokens and parameters are counts."""

    name: str
    architecture: str
    quantization: str
    parameters: int
    active_parameters: int
    """Those that each token is computed with."""
    files: int
    file_bytes: int
    active_bytes: int
    """Of the weights, read for each token."""
    context: int
    """Tokens of the longest sequence that it was trained for."""
    layers: int
    memory: Memory
    window: int
    """Tokens; 0 where no layer has one."""
    kv_bytes_per_token: int
    """Of the layers that keep every token, in f16."""
    window_bytes_per_token: int
    state_bytes: int
    """Of recurrent layers, for each sequence."""
    has_template: bool
    has_tools: bool
    has_thinking: bool
    vocabulary: str
    vocabulary_tokens: int
    licence: str
    planned_context: int
    planned_bytes: int
    """What a worker with default settings and a context of `planned_context` tokens takes."""
    planned: dict[str, int]
    """Its parts, in bytes by purpose; what is kept free besides is no part of it."""
    available_bytes: int
    largest_context: int
    """That this machine has memory for; 0 where none."""
    tokens_per_second: tuple[float, float]
    """Of one conversation on a Raspberry Pi 5, at most, by what is read for a token."""
    chat_template: str = ""
    """As the file has it."""


def facts_of(path: Path, available: int) -> ModelFacts:
    """Of a model of which one file is given, with `available` bytes for it. Raises ModelFileError."""
    parts = served_parts(path, KNOWN)
    headers = [header(part) for part in parts]
    first, tensors = headers[0], [tensor for one in headers for tensor in one.tensors]
    values, shape = first.values, shape_in(parts[0], first)
    template = str(values.get(TEMPLATE_KEY, ""))
    file_bytes = sum(one.file_bytes for one in headers)
    context = _number(values, "context_length")
    settings = WorkerSettings()

    is_embedding = embeds(parts[0])
    if is_embedding:
        shape = dataclasses.replace(shape, bytes_per_token=0, window=0, window_bytes_per_token=0)

    def plan(num_ctx: int) -> MemoryPlan:
        return _planned(shape, sum(tensor.num_bytes for tensor in tensors), num_ctx, is_embedding=is_embedding)

    planned_context = min(context or settings.num_ctx, settings.num_ctx) if is_embedding else settings.num_ctx
    planned = plan(planned_context)
    read = active_bytes(first, tensors) + CONVERSATION_TOKENS * shape.bytes_per_young_token
    low, high = PI5_BANDWIDTH_BYTES
    return ModelFacts(
        name=str(values.get("general.name", parts[0].stem)),
        architecture=str(values["general.architecture"]),
        quantization=_quantization(first, tensors),
        parameters=num_parameters(tensors),
        active_parameters=active_parameters(first, tensors),
        files=len(parts),
        file_bytes=file_bytes,
        active_bytes=active_bytes(first, tensors),
        context=context,
        layers=shape.num_layers,
        memory="none" if is_embedding else _memory_of(shape),
        window=shape.window,
        kv_bytes_per_token=shape.bytes_per_token,
        window_bytes_per_token=shape.window_bytes_per_token,
        state_bytes=shape.sequence_bytes,
        has_template=bool(template),
        has_tools="tools" in template,
        has_thinking=any(word in template for word in THINKING),
        vocabulary=" ".join(
            str(values[key]) for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre") if key in values
        ),
        vocabulary_tokens=shape.num_vocab,
        licence=str(values.get("general.license", "not told by the file")),
        planned_context=planned_context,
        planned_bytes=planned.total,
        planned=_parts(planned),
        available_bytes=available,
        largest_context=largest_ctx(plan, max(context, ROUND_CTX), available),
        tokens_per_second=(round(low / read, 1), round(high / read, 1)),
        chat_template=template,
    )


def _memory_of(shape: KvShape) -> Memory:
    return "recurrent" if shape.sequence_bytes else "sliding-window" if shape.window else "full"


def _planned(shape: KvShape, weights: int, num_ctx: int, *, is_embedding: bool) -> MemoryPlan:
    """A worker's with default settings."""
    if is_embedding:
        return plan_embedding(shape, weights, num_ctx)
    settings = WorkerSettings()
    return plan_memory(
        shape,
        weight_bytes=weights,
        num_ctx=num_ctx,
        num_ubatch=settings.num_ubatch,
        max_outputs=MAX_OUTPUTS,
        flash_attention=True,
        num_slots=settings.num_slots,
    )


def bytes_for_a_token(parts: Sequence[Path]) -> int:
    """Of a model's files, what is read from memory for a token: all but experts that it does not use, and tables of
    which it uses a row. Raises ModelFileError."""
    headers = [header(part) for part in parts]
    return active_bytes(headers[0], [tensor for one in headers for tensor in one.tensors])


def _parts(plan: MemoryPlan) -> dict[str, int]:
    """Bytes by what they are for."""
    return {"weights": plan.weights, "KV cache": plan.kv, "computing": plan.compute, "process": plan.process}


def described(parts: Sequence[Path], sha256: str = "") -> ModelFile:
    """A model's files as others are told of them. Raises ModelFileError, OSError."""
    headers = [header(part) for part in parts]
    tensors = [tensor for one in headers for tensor in one.tensors]
    values = headers[0].values
    return ModelFile(
        architecture=str(values.get("general.architecture", ""))[:64],
        quantization=_quantization(headers[0], tensors),
        num_parameters=min(num_parameters(tensors), MOST),
        num_embd=min(max(0, _number(values, "embedding_length")), MOST),
        sha256=sha256,
        modified_at=max(part.stat().st_mtime for part in parts),
    )


def entry_of_files(path: Path, facts: ModelFacts, locked: Locked) -> Entry:
    """What a catalogue says of a model of which the first file is given."""
    shape = shape_in(path)
    template = "in the file" if facts.has_template else "none in the file"
    if facts.memory == "none":
        template = "none: it makes vectors"
    return Entry(
        name=facts.name,
        family=facts.architecture,
        repository=locked.repository,
        file=locked.file,
        quantization=facts.quantization,
        context=facts.context,
        size_bytes=facts.file_bytes,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        shape=(shape.num_layers, shape.num_embd, shape.num_heads, shape.num_ff, shape.num_vocab),
        memory=facts.memory,
        template=template,
        licence=facts.licence,
        checked="the file's header",
        window=facts.window,
        window_bytes_per_token=facts.window_bytes_per_token,
        state_bytes=shape.sequence_bytes,
        active_bytes=facts.active_bytes,
    )


def _number(values: dict[str, Value], key: str) -> int:
    found = values.get(f"{values['general.architecture']}.{key}", 0)
    return int(found) if isinstance(found, int | float) else 0


def _quantization(first: Header, tensors: list[Tensor]) -> str:
    """As its writer says, else the type of most of its bytes."""
    told = first.values.get("general.file_type")
    if isinstance(told, int) and told in FILE_TYPES:
        return FILE_TYPES[told]
    by_type: dict[str, int] = {}
    for tensor in tensors:
        by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.num_bytes
    return max(by_type, key=lambda kind: by_type[kind], default="unknown")
