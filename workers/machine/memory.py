"""The memory plan: what a model and a context take, against what the machine or its cgroup has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from broker.errors import TurnpikeError
from workers.machine.cgroup import left_bytes

PROCESS_BYTES = 120 * 1024 * 1024
"""Python, NATS, llama.cpp's code and the child that renders templates."""
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


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by purpose."""

    weights: int
    kv: int
    compute: int
    process: int = PROCESS_BYTES
    offload_cache: int = 0
    grammars: int = 0

    @property
    def total(self) -> int:
        """All purposes together, but for grammars, which most workers see none of."""
        return self.weights + self.kv + self.compute + self.process + self.offload_cache

    def describe(self) -> str:
        """What it takes to run, by purpose, and what may come on top: by the first turn with a grammar, and by
        conversations at rest, little by little."""
        return (
            f"planned={_mib(self.total - self.offload_cache)}MiB (weights={_mib(self.weights)}MiB kv={_mib(self.kv)}MiB"
            f" computing={_mib(self.compute)}MiB process={_mib(self.process)}MiB),"
            f" grammars {_mib(self.grammars)}MiB more once there is one,"
            f" parked conversations up to {_mib(self.offload_cache)}MiB more"
        )


class DoesNotFit(TurnpikeError):
    """The plan is over what is available; `max_ctx` is the largest context that would fit, 0 if none."""

    def __init__(self, plan: MemoryPlan, available: int, num_ctx: int, max_ctx: int) -> None:
        self.plan = plan
        self.available = available
        self.max_ctx = max_ctx
        remedy = f"the largest context that fits is {max_ctx}: --num-ctx {max_ctx}" if max_ctx else "no context fits"
        super().__init__(
            f"a context of {num_ctx} tokens does not fit: it takes {_mib(plan.total)} MiB "
            f"(weights {_mib(plan.weights)}, KV cache {_mib(plan.kv)}, computing {_mib(plan.compute)}, "
            f"process {_mib(plan.process)}, parking {_mib(plan.offload_cache)}) of "
            f"{_mib(available)} MiB available; {remedy}"
        )


def plan_memory(
    shape: KvShape,
    *,
    file_bytes: int,
    num_ctx: int,
    num_ubatch: int,
    max_outputs: int,
    flash_attention: bool,
    offload_cache: int = 0,
    num_slots: int = DEFAULT_SLOTS,
) -> MemoryPlan:
    """An upper bound of what it takes. Weights count once, in the file or repacked: the other copy can be dropped."""
    # The widest tensors alive at once in a llama graph: gate and up of the feed-forward, the residual, and attention.
    activations = num_ubatch * (2 * shape.num_ff + 4 * shape.num_embd) * 4
    # Without flash attention the scores of a ubatch against the whole context are there in full.
    attention = num_ubatch * num_ctx * (4 + 2) if flash_attention else num_ubatch * num_ctx * (shape.num_heads * 4 + 4)
    logits = 2 * max_outputs * shape.num_vocab * 4
    compute = activations + attention + logits
    grammars = GRAMMARS_BYTES + GRAMMARS_BYTES_PER_TOKEN * shape.num_vocab
    return MemoryPlan(
        file_bytes,
        shape.cache_bytes(num_ctx, num_slots, num_ubatch),
        compute,
        offload_cache=offload_cache,
        grammars=grammars,
    )


def check_memory(
    shape: KvShape,
    *,
    file_bytes: int,
    num_ctx: int,
    num_ubatch: int,
    max_outputs: int,
    flash_attention: bool,
    available: int,
    offload_cache: int | None = 0,
    num_slots: int = DEFAULT_SLOTS,
) -> MemoryPlan:
    """The plan where it fits into `available` bytes; raises DoesNotFit, which names the largest context that would.

    Without a number for `offload_cache` it is a quarter of what the rest leaves free.
    """

    def plan(ctx: int) -> MemoryPlan:
        return plan_memory(
            shape,
            file_bytes=file_bytes,
            num_ctx=ctx,
            num_ubatch=num_ubatch,
            max_outputs=max_outputs,
            flash_attention=flash_attention,
            offload_cache=offload_cache or 0,
            num_slots=num_slots,
        )

    wanted = plan(num_ctx)
    if wanted.total <= available:
        return wanted if offload_cache is not None else replace(wanted, offload_cache=(available - wanted.total) // 4)
    raise DoesNotFit(wanted, available, num_ctx, largest_ctx(plan, num_ctx, available))


def largest_ctx(plan: Callable[[int], MemoryPlan], max_ctx: int, available: int) -> int:
    """The largest context up to `max_ctx`, in steps of ROUND_CTX, whose plan fits into `available` bytes; 0 if none."""
    low, high = 0, max_ctx // ROUND_CTX
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if plan(middle * ROUND_CTX).total <= available else (low, middle - 1)
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
