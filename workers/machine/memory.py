"""The memory plan: what a model and a context take, against what the machine or its cgroup has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from broker.errors import TurnpikeError
from workers.engine.checkpoints import CHECKPOINT_SHARE, MAX_PER_SLOT
from workers.machine.cgroup import left_bytes

PROCESS_BYTES = 56 * 1024 * 1024
"""Python, NATS, llama.cpp's code, and 14 MiB of the child that renders templates (benchmarks/footprint.py)."""
ENTRY_BYTES = 160
"""Of a token, and of a merge, in llama.cpp's tables of a vocabulary: a text and a number, both ways (measured)."""
RESERVE_BYTES = 64 * 1024 * 1024
"""Kept free beside what is predicted: for what the system needs to run it, and for what a burst of turns holds."""
GRAMMARS_BYTES = 50 * 1024 * 1024
GRAMMARS_BYTES_PER_TOKEN = 700
"""Of the process that grammars are forked from, which most workers never start: said in the plan, and no part of it."""
ROUND_CTX = 256
CELLS = 256
"""llama.cpp rounds the cells of a cache up to so many."""
DEFAULT_SLOTS = 8


@dataclass(frozen=True)
class KvShape:
    """What of a model's shape decides about memory."""

    num_layers: int
    bytes_per_token: int
    """Of KV cache in f16, over all layers that keep every token."""
    num_embd: int
    num_vocab: int
    num_heads: int
    num_ff: int
    window: int = 0
    """Tokens that some layers look back; 0 where none does."""
    window_bytes_per_token: int = 0
    """Of KV cache in f16, over the layers with a window."""
    sequence_bytes: int = 0
    """Of the states of recurrent layers, one for each sequence however long."""
    work_bytes: int = 0
    """What computing a recurrent layer takes for each sequence besides: its states as they were, and as they become."""
    num_inner: int = 0
    """Channels of a recurrent layer."""
    num_merges: int = 0
    """Of the vocabulary, where it has any."""

    def quantized(self, kv_type: str) -> KvShape:
        """With a KV cache of another type: a block of q8_0 is 32 bytes and a scale of two for 32 values."""
        if kv_type != "q8_0":
            return self
        return replace(
            self,
            bytes_per_token=self.bytes_per_token * 34 // 64,
            window_bytes_per_token=self.window_bytes_per_token * 34 // 64,
        )

    @property
    def bytes_per_young_token(self) -> int:
        """Of a token that all layers still keep, those with a window too."""
        return self.bytes_per_token + self.window_bytes_per_token

    def cache_bytes(self, num_ctx: int, num_slots: int, num_ubatch: int) -> int:
        """Of a context: a cell a token, for layers with a window as many as the windows of all sequences and a batch
        want, and a state a sequence. As llama-kv-cache-iswa.cpp sizes it for one pool of cells."""
        cells = -(-num_ctx // CELLS) * CELLS
        windows = -(-min(cells, self.window * num_slots + num_ubatch) // CELLS) * CELLS
        return self.bytes_per_token * cells + self.window_bytes_per_token * windows + self.sequence_bytes * num_slots

    def compute_bytes(
        self, num_ctx: int, num_slots: int, num_ubatch: int, max_outputs: int, *, flash_attention: bool
    ) -> int:
        """What llama.cpp computes in ("CPU compute buffer"): the largest of what is alive at once in one of its graph's
        places. By llama_context::sched_reserve and the graphs of src/models, each against the sizes that it logs.

        Through all layers go the masks, a cell each for each token and each kind of cache (llm_graph_input_attn_kv).
        """
        cells = -(-num_ctx // CELLS) * CELLS
        windows = -(-min(cells, self.window * num_slots + num_ubatch) // CELLS) * CELLS if self.window else 0
        tokens = -(-min(num_ubatch, num_ctx) // num_slots) * num_slots
        outputs = min(tokens, max_outputs)
        masks = tokens * ((cells if self.bytes_per_token else 0) + windows) * (2 if flash_attention else 4)
        # Feed-forward (build_ffn): gate, up and their product; the residual, and what attention left holes of.
        alive = tokens * (3 * self.num_ff + 4 * self.num_embd) * 4
        if not flash_attention and self.bytes_per_token:
            # build_attn_mha: each head's scores against all cells.
            alive = max(alive, tokens * (self.num_heads * cells + 6 * self.num_embd) * 4)
        if self.sequence_bytes:
            # build_rs, and mamba-base.cpp, delta-net-base.cpp: projections and convolutions; states, old and new.
            inner = tokens * (6 * self.num_inner + 2 * self.num_embd) * 4
            alive = max(alive, inner + num_slots * self.work_bytes)
        # The logits come last, where masks are gone.
        logits = 4 * outputs * self.num_vocab + 2 * self.num_embd * (tokens + outputs) * 4
        return max(masks + alive, logits)

    @property
    def process_bytes(self) -> int:
        """Of the worker's own processes, whatever the context."""
        return PROCESS_BYTES + ENTRY_BYTES * (self.num_vocab + self.num_merges)

    @property
    def checkpoint_bytes(self) -> int:
        """Of what windows and recurrent layers have of one long sequence; 0 where every token is kept."""
        return self.window * self.window_bytes_per_token + self.sequence_bytes


@dataclass(frozen=True)
class DraftSize:
    """A draft model that runs beside another one, in a context as large, with flash attention."""

    shape: KvShape
    weights: int
    """Bytes."""

    def num_bytes(self, num_ctx: int, num_slots: int, num_ubatch: int, max_outputs: int) -> int:
        """Of its weights, its cache, what it computes in and its vocabulary."""
        shape = self.shape
        return (
            self.weights
            + shape.cache_bytes(num_ctx, num_slots, num_ubatch)
            + shape.compute_bytes(num_ctx, num_slots, num_ubatch, max_outputs, flash_attention=True)
            + 4 * max_outputs * shape.num_vocab
            + shape.process_bytes
            - PROCESS_BYTES
        )


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by purpose."""

    weights: int
    """In the file or repacked: of what llama.cpp made a copy of, the system may drop the file's pages."""
    kv: int
    compute: int
    """llama.cpp's buffers for a step, and for the logits that come out of it."""
    process: int = PROCESS_BYTES
    offload_cache: int = 0
    """Conversations that are not in the context, and checkpoints of those that are."""
    grammars: int = 0
    checkpoint: int = 0
    """One checkpoint of one long sequence; 0 where a cache can be cut anywhere."""
    num_slots: int = DEFAULT_SLOTS
    draft: int = 0
    """Of a draft model: its weights, its context and what it computes in."""
    reserve: int = RESERVE_BYTES
    """Kept free, and no part of what is predicted."""

    @property
    def total(self) -> int:
        """What is predicted: all purposes together, but for grammars, which most workers see none of."""
        return self.weights + self.kv + self.compute + self.process + self.draft + self.offload_cache

    @property
    def needed(self) -> int:
        """What has to be free before it starts."""
        return self.total + self.reserve

    @property
    def checkpoints(self) -> int:
        """Of the offload cache's bytes, those for checkpoints: a share, and no more than all slots can have."""
        most = self.checkpoint * MAX_PER_SLOT * self.num_slots
        return min(self.offload_cache // CHECKPOINT_SHARE, most)

    def describe(self) -> str:
        """What it takes to run, by purpose, and what may come on top: by the first turn with a grammar, and by
        conversations at rest, little by little."""
        draft = f" draft={_mib(self.draft)}MiB" if self.draft else ""
        checkpoints = f", {_mib(self.checkpoints)}MiB of it for checkpoints" if self.checkpoints else ""
        return (
            f"planned={_mib(self.total - self.offload_cache)}MiB (weights={_mib(self.weights)}MiB kv={_mib(self.kv)}MiB"
            f" computing={_mib(self.compute)}MiB process={_mib(self.process)}MiB{draft}),"
            f" kept free {_mib(self.reserve)}MiB,"
            f" grammars {_mib(self.grammars)}MiB more once there is one,"
            f" parked conversations up to {_mib(self.offload_cache)}MiB more{checkpoints}"
        )


class DoesNotFit(TurnpikeError):
    """The plan is over what is available; `max_ctx` is the largest context that would fit, 0 if none."""

    def __init__(self, plan: MemoryPlan, available: int, num_ctx: int, max_ctx: int) -> None:
        self.plan = plan
        self.available = available
        self.max_ctx = max_ctx
        draft = f"draft model {_mib(plan.draft)}, " if plan.draft else ""
        remedy = f"the largest context that fits is {max_ctx}: --num-ctx {max_ctx}" if max_ctx else "no context fits"
        super().__init__(
            f"a context of {num_ctx} tokens does not fit: it takes {_mib(plan.needed)} MiB "
            f"(weights {_mib(plan.weights)}, KV cache {_mib(plan.kv)}, computing {_mib(plan.compute)}, "
            f"process {_mib(plan.process)}, {draft}parking {_mib(plan.offload_cache)}, kept free {_mib(plan.reserve)})"
            f" of {_mib(available)} MiB available; {remedy}"
        )


def plan_memory(
    shape: KvShape,
    *,
    weight_bytes: int,
    num_ctx: int,
    num_ubatch: int,
    max_outputs: int,
    flash_attention: bool,
    offload_cache: int = 0,
    num_slots: int = DEFAULT_SLOTS,
    draft: DraftSize | None = None,
) -> MemoryPlan:
    """What it takes with every slot filled, a full batch computed, and as many logits as a step may have.

    Weights count once, in the file or repacked: the other copy can be dropped. `max_outputs` are rows of logits.
    """
    compute = shape.compute_bytes(num_ctx, num_slots, num_ubatch, max_outputs, flash_attention=flash_attention)
    # llama_context::output_reserve: a row each, beside those of the graph.
    outputs = 4 * max_outputs * shape.num_vocab
    return MemoryPlan(
        weight_bytes,
        shape.cache_bytes(num_ctx, num_slots, num_ubatch),
        compute + outputs,
        shape.process_bytes,
        offload_cache,
        GRAMMARS_BYTES + GRAMMARS_BYTES_PER_TOKEN * shape.num_vocab,
        shape.checkpoint_bytes,
        num_slots,
        draft.num_bytes(num_ctx, num_slots, num_ubatch, max_outputs) if draft is not None else 0,
    )


def check_memory(
    shape: KvShape,
    *,
    weight_bytes: int,
    num_ctx: int,
    num_ubatch: int,
    max_outputs: int,
    flash_attention: bool,
    available: int,
    offload_cache: int | None = 0,
    num_slots: int = DEFAULT_SLOTS,
    draft: DraftSize | None = None,
) -> MemoryPlan:
    """The plan where it fits into `available` bytes; raises DoesNotFit, which names the largest context that would.

    Without a number for `offload_cache` it is a quarter of what the rest leaves free.
    """

    def plan(ctx: int) -> MemoryPlan:
        return plan_memory(
            shape,
            weight_bytes=weight_bytes,
            num_ctx=ctx,
            num_ubatch=num_ubatch,
            max_outputs=max_outputs,
            flash_attention=flash_attention,
            offload_cache=offload_cache or 0,
            num_slots=num_slots,
            draft=draft,
        )

    wanted = plan(num_ctx)
    if wanted.needed <= available:
        return wanted if offload_cache is not None else replace(wanted, offload_cache=(available - wanted.needed) // 4)
    raise DoesNotFit(wanted, available, num_ctx, largest_ctx(plan, num_ctx, available))


def largest_ctx(plan: Callable[[int], MemoryPlan], max_ctx: int, available: int) -> int:
    """The largest context up to `max_ctx`, in steps of ROUND_CTX, whose plan fits into `available` bytes; 0 if none."""
    low, high = 0, max_ctx // ROUND_CTX
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if plan(middle * ROUND_CTX).needed <= available else (low, middle - 1)
    return low * ROUND_CTX


def _mib(num_bytes: int) -> int:
    return round(num_bytes / 1024 / 1024)


def available_bytes(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """What a new process may take: the machine's MemAvailable, or what its cgroups' limits leave if that is less."""
    available = 1 << 62
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    left = left_bytes(proc, cgroup)
    return available if left is None else min(available, left)
