"""What the engine does, second by second, and what each turn came to: points for telemetry."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

from broker import formulas, points, subjects
from broker.delivery import Delivery
from broker.errors import InvalidName
from broker.messages import CachedIn, Done, End, Point, RecomputedFor, Turn
from workers.calls.deltas import Reason
from workers.engine.events import LoopSnapshot
from workers.engine.scheduler import Step
from workers.engine.threads import StepThreads
from workers.kv.cache import CacheStats
from workers.turns.work import TurnNotes

TIERS: tuple[str, ...] = get_args(CachedIn)
CAUSES: tuple[str, ...] = get_args(RecomputedFor)
BROKEN: tuple[str, ...] = get_args(Reason)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """What a decode step reads, and what the machine could read at most."""

    weights_bytes: int | None = None
    """That a token is computed with."""
    kv_bytes_per_token: int = 0
    read_peak_bytes_per_second: float | None = None


def spans_of(step: Step) -> tuple[str, str]:
    """What it computed of prompts, and what of answers: for each sequence the tokens before it and its own, `64+1`."""
    each = [f"{span.start}+{len(span.tokens)}" for span in step.spans]
    return ",".join(each[step.num_decoding :]), ",".join(each[: step.num_decoding])


@dataclass
class _Second:
    """The steps since the last point."""

    num_steps: int = 0
    num_decode_steps: int = 0
    num_sequences: int = 0
    """In decode steps."""
    num_chosen: int = 0
    """Tokens of streams, beside prompts too, without guesses."""
    num_prefill_tokens: int = 0
    step_seconds: float = 0.0
    max_step_seconds: float = 0.0
    decode_step_seconds: float = 0.0
    read_bytes: int = 0


@dataclass
class WorkerMetrics:
    """Counts in the engine's thread, makes points in the asyncio one."""

    tags: dict[str, str]
    """node, model, quantization, worker."""
    num_slots: int
    num_cells: int
    shape: Shape
    threads: StepThreads | None = None
    """How many a step takes; None where nobody chooses."""
    clock: Callable[[], float] = time.perf_counter
    _second: _Second = field(default_factory=_Second)
    _began_at: float = 0.0
    _copied: float = 0.0
    _given: int = 0
    _drafted: int = 0
    _accepted: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def on_step(self, step: Step, seconds: float) -> None:
        """Called by the engine loop after each step; at DEBUG each has a line."""
        if log.isEnabledFor(logging.DEBUG):
            prefill, decode = spans_of(step)
            log.debug("step seconds=%.6f prefill=%s decode=%s", seconds, prefill or "-", decode or "-")
        with self._lock:
            now = self._second
            now.num_steps += 1
            now.step_seconds += seconds
            now.max_step_seconds = max(now.max_step_seconds, seconds)
            now.num_prefill_tokens += step.num_prefill_tokens
            now.num_chosen += step.num_decoding
            if not step.is_decode:
                return
            now.num_decode_steps += 1
            now.num_sequences += len(step.spans)
            now.decode_step_seconds += seconds
            num_read = sum(span.end for span in step.spans)
            now.read_bytes += (self.shape.weights_bytes or 0) + num_read * self.shape.kv_bytes_per_token

    def second(
        self, state: LoopSnapshot, offload_cache: CacheStats, given_bytes: int, num_dropped: int
    ) -> Point | None:
        """The engine since the last call."""
        copied, self._copied = self._copied, state.copy_seconds
        given, self._given = self._given, given_bytes
        drafted, self._drafted = state.num_drafted - self._drafted, state.num_drafted
        accepted, self._accepted = state.num_accepted - self._accepted, state.num_accepted
        with self._lock:
            past, self._second = self._second, _Second()
        now = self.clock()
        seconds = max(now - self._began_at, 1e-6) if self._began_at else None
        self._began_at = now
        has_steps, has_decodes = past.num_steps > 0, past.num_decode_steps > 0
        is_known = has_decodes and self.shape.weights_bytes is not None
        read = past.read_bytes / past.decode_step_seconds if is_known else None
        peak = self.shape.read_peak_bytes_per_second
        return points.ENGINE.point(
            time.time_ns(),
            self.tags,
            {
                "num_steps": past.num_steps,
                "batch_size": past.num_sequences / past.num_decode_steps if has_decodes else None,
                "step_seconds": past.step_seconds / past.num_steps if has_steps else None,
                "max_step_seconds": past.max_step_seconds if has_steps else None,
                "busy_ratio": min(1.0, past.step_seconds / seconds) if seconds else None,
                "prefill_tokens_per_second": past.num_prefill_tokens / seconds if seconds else None,
                "decode_tokens_per_second": (past.num_chosen + accepted) / seconds if seconds else None,
                "drafted_tokens": drafted,
                "accepted_tokens": accepted,
                "num_active": state.num_active,
                "num_waiting": state.num_waiting,
                "num_slots": self.num_slots,
                "num_cells_used": state.num_cells_used,
                "num_cells": self.num_cells,
                "num_threads": self.threads.decode.current if self.threads else None,
                "num_threads_batch": self.threads.prefill.current if self.threads else None,
                "num_parked": offload_cache.num_in_ram,
                "parked_bytes": offload_cache.ram_bytes,
                "num_on_disk": offload_cache.num_on_disk,
                "disk_bytes": offload_cache.disk_bytes,
                "num_evicted": offload_cache.num_evicted,
                "copy_ratio": (state.copy_seconds - copied) / seconds if seconds else None,
                "given_bytes": given_bytes - given,
                "read_bytes_per_second": read,
                "read_peak_bytes_per_second": peak,
                "read_ratio": read / peak if read is not None and peak else None,
                "num_dropped": num_dropped,
            },
        )

    def turn(
        self,
        now: int,
        delivery: Delivery,
        turn: Turn | None,
        end: End,
        notes: TurnNotes,
        load_wait: float | None = None,
    ) -> Point | None:
        """A turn's point at `now`, nanoseconds since the epoch. `turn` is None where its bytes were not understood."""
        tags = self.tags | {"run": (turn.run if turn is not None else None) or points.NONE}
        told: dict[str, float | int | bool | str | None] = {"attempt": end.attempt, "load_wait_seconds": load_wait}
        if notes.first_token_at is not None and not notes.num_resumed_tokens:
            told["ttft_seconds"] = max(0.0, notes.first_token_at - delivery.stored_at)
        with contextlib.suppress(InvalidName):  # a subject of nobody's
            told["client"] = subjects.parse_turn(delivery.subject).client
        if not isinstance(end, Done):
            return points.TURN.point(now, tags, told | {"outcome": end.code, "is_failed": True})
        usage, timings = end.usage, end.timings
        num_new = usage.completion_tokens
        return points.TURN.point(
            now,
            tags,
            told
            | {
                "outcome": end.finish_reason,
                "is_failed": False,
                "queue_wait_seconds": timings.queue_wait,
                "tpot_seconds": formulas.tpot(0.0, timings.decode, num_new),
                "prefill_seconds": timings.prefill,
                "decode_seconds": timings.decode,
                "prefill_tokens_per_second": formulas.prefill_rate(
                    usage.prompt_tokens, usage.cached_tokens, timings.prefill
                ),
                "decode_tokens_per_second": formulas.decode_rate(num_new, timings.decode),
                "prompt_tokens": usage.prompt_tokens,
                "num_texts": len(turn.texts) if turn is not None and turn.texts else None,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": num_new,
                "reasoning_tokens": usage.reasoning_tokens,
                "drafted_tokens": usage.drafted_tokens,
                "accepted_tokens": usage.accepted_tokens,
                **{f"cached_in_{tier}_tokens": usage.cached_tokens * (usage.cached_in == tier) for tier in TIERS},
                **{
                    f"recomputed_{why}_tokens": usage.recomputed_tokens * (usage.recomputed_for == why)
                    for why in CAUSES
                },
                "fetch_seconds": notes.fetch_seconds,
                "dropped_messages": usage.dropped_messages,
                "num_calls": len(end.tool_calls),
                **{f"broken_{why}_calls": notes.broken_calls.get(why, 0) for why in BROKEN},
                "num_resumed_tokens": notes.num_resumed_tokens,
                "joules": notes.joules,
            },
        )

    def event(self, now: int, kind: str, text: str) -> Point | None:
        """For an annotation."""
        return points.event(now, kind, text, node=self.tags["node"], worker=self.tags["worker"])
