"""What a worker's processes have in memory, beside its plan.

Measured is what the system cannot take from them without reading or computing it again: of the model's file the pages
that are in memory, less those of tensors of which llama.cpp made a copy in another layout; of all else the pages of
libraries, each once, and PSS, children too. At work means: every slot's share of the context filled, the offload cache
filled to its cap, and a step computed that has as many rows of logits as a step may have.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness import CORES, ROOT, System, system
from broker.messages import Message, Sampling
from tools.real_models import pinned
from workers.engine.protocol import MAX_OUTPUTS
from workers.machine.memory import MemoryPlan, plan_memory
from workers.machine.model_shape import shape_of
from workers.model_file import answering_parts, header, weight_bytes
from workers.settings import WorkerSettings

WORDS = ("radio", "node", "alarm", "power", "mast", "antenna", "battery", "link", "signal", "cable")
ANSWER_TOKENS = 4
FILL_SHARE = 0.8
"""Of a slot's share of the context, so that no turn is refused for a token more than was counted."""
OVERFILL = 1.3
"""As many conversations more than the offload cache has room for."""
REAL_MODELS = Path(os.environ.get("TP_MODELS", ROOT / ".cache" / "real-models"))
EVALUATED = 2 * MAX_OUTPUTS


@dataclass(frozen=True)
class Measured:
    """Of one model: bytes that were planned, and that were found."""

    plan: MemoryPlan
    repacked: int
    """Of weights that llama.cpp copied."""
    buffers: int
    """llama.cpp's for a step, as it logs it, and for all rows of logits that there may be; it logs the first."""
    kv: int
    """llama.cpp's, as it allocated it."""
    at_rest: int
    at_work: int
    weights: int
    """Of the file, at work."""
    offloaded: int
    """The most that could be in the offload cache, which was filled beyond."""

    @property
    def process(self) -> int:
        """What is left of the bytes at work for all that is no model's, no context's and no conversation's."""
        return self.at_work - self.plan.weights - self.plan.kv - self.plan.compute - self.offloaded


def real_models() -> dict[str, Path]:
    """Those of tools/real_models.toml that were fetched, by name."""
    found = {model.name: REAL_MODELS / model.file for model in pinned()}
    return {name: path for name, path in found.items() if path.is_file()}


def resident(pid: int) -> tuple[int, int]:
    """Bytes that a process and its children have in memory: of model files, by RSS, and of all else.

    Of files that are mapped, libraries for the most part, each page counts once, whoever else has it mapped: PSS would
    tell less of a worker for every other process that runs Python. What is no file's is told by PSS, as children share
    it with their parent.
    """
    root = psutil.Process(pid)
    model = rest = 0
    files: dict[str, int] = {}
    for process in (root, *root.children(recursive=True)):
        shared: dict[str, int] = {}
        for one in process.memory_maps(grouped=False):
            if one.path.endswith(".gguf"):
                model += one.rss
            elif one.path.startswith("/"):
                shared[one.path] = shared.get(one.path, 0) + one.rss - one.anonymous
                rest += one.anonymous
            else:
                rest += one.pss
        for name, size in shared.items():
            files[name] = max(files.get(name, 0), size)
    return model, rest + sum(files.values())


def planned(path: Path, *, num_ctx: int, num_slots: int, park_bytes: int) -> MemoryPlan:
    """By the file's header alone, as `turnpike models show` does."""
    parts = answering_parts(path)
    return plan_memory(
        shape_of(header(parts[0])),
        weight_bytes=weight_bytes(parts),
        num_ctx=num_ctx,
        num_ubatch=WorkerSettings().num_ubatch,
        max_outputs=max(MAX_OUTPUTS, num_slots),
        flash_attention=True,
        offload_cache=park_bytes,
        num_slots=num_slots,
    )


def allocated(path: Path, *, num_ctx: int, num_slots: int) -> dict[str, float]:
    """Bytes by purpose, as llama.cpp logs them for a worker's context; in a model of its own, which is closed again."""
    from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel

    model = LlamaModel(path)
    engine = LlamaEngine(model, ContextOptions(num_ctx=num_ctx, num_slots=num_slots))
    found = dict(engine.buffers)
    engine.close()
    model.close()
    return found


async def measure(path: Path, *, num_ctx: int, num_slots: int, park_bytes: int, threads: int = 0) -> Measured:
    """Starts a worker, and looks at it at rest and at work."""
    plan = planned(path, num_ctx=num_ctx, num_slots=num_slots, park_bytes=park_bytes)
    buffers = await asyncio.to_thread(allocated, path, num_ctx=num_ctx, num_slots=num_slots)
    repacked = round(sum(size for name, size in buffers.items() if "REPACK" in name or "AMX" in name))
    flags: list[str | int | float] = ["--num-ctx", num_ctx, "--num-slots", num_slots, "--park-bytes", park_bytes]
    flags += ["--threads", threads or max(1, CORES - 1)]
    # A batch is as full, and has as many rows of logits, on a machine that is busy and gets little done in a second:
    # the memory of what no step computed is never touched.
    flags += ["--step-budget-seconds", 60]
    async with system(*flags, model_file=path) as running:
        at_rest = sum(resident(running.worker.pid)) - repacked
        await _work(running, path, num_ctx, num_slots, park_bytes)
        file, rest = resident(running.worker.pid)

    def of(kind: str) -> float:
        return sum(size for name, size in buffers.items() if name.endswith(kind))

    return Measured(
        plan,
        repacked,
        round(of("compute") + of("output") / num_slots * max(MAX_OUTPUTS, num_slots)),
        round(of("KV")),
        at_rest,
        file + rest - repacked,
        file,
        park_bytes,
    )


async def _work(running: System, path: Path, num_ctx: int, num_slots: int, park_bytes: int) -> None:
    words = " ".join(WORDS)
    once, twice = [
        (await running.client.ask("m", text, sampling=Sampling(max_tokens=1))).usage.prompt_tokens
        for text in (words, f"{words} {words}")
    ]
    tokens = int(FILL_SHARE * num_ctx / num_slots) - ANSWER_TOKENS
    # Beside the words the template has tokens of its own.
    num_words = int((tokens - 2 * once + twice) / (twice - once) * len(WORDS))
    text = " ".join(WORDS[index % len(WORDS)] for index in range(num_words))
    shape = shape_of(header(answering_parts(path)[0]))
    of_one = tokens * shape.bytes_per_token + min(tokens, shape.window or 0) * shape.window_bytes_per_token
    count = num_slots + int(OVERFILL * park_bytes / (of_one + shape.sequence_bytes)) + 1

    async def ask(index: int) -> None:
        messages = [Message("user", f"{index} {text}")]
        sampling = Sampling(max_tokens=ANSWER_TOKENS, ignore_eos=True)
        await running.client.ask("m", messages, sampling=sampling, conversation=f"c{index}")

    for first in range(0, count, num_slots):
        await asyncio.gather(*(ask(index) for index in range(first, min(count, first + num_slots))))
    scored = " ".join(WORDS[index % len(WORDS)] for index in range(EVALUATED))
    await running.client.ask("m", words, kind="score", raw=True, continuations=(f" {scored}",))
