"""What an embedding worker counts, in the words of every worker's points."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from broker import points
from broker.messages import Point
from workers.embedding.packing import Step
from workers.engine.events import LoopSnapshot


class EmbeddingMetrics:
    """Counts in the engine's threads, makes points in the asyncio one."""

    def __init__(self, tags: Mapping[str, str], num_slots: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """`tags`: node, model, quantization, worker."""
        self._tags = dict(tags)
        self._num_slots = num_slots
        self._clock = clock
        self._lock = threading.Lock()
        self._steps: list[tuple[int, int, float]] = []
        """Since the last point: texts, tokens and seconds of each."""
        self._began_at = clock()

    def on_step(self, step: Step, seconds: float) -> None:
        """A step is over."""
        with self._lock:
            self._steps.append((len(step.texts), step.num_tokens, seconds))

    def second(self, state: LoopSnapshot, num_threads: int, num_dropped: int) -> Point | None:
        """The engine since the last call."""
        now = self._clock()
        with self._lock:
            steps, self._steps = self._steps, []
            seconds, self._began_at = max(now - self._began_at, 1e-6), now
        took = [each for _, _, each in steps]
        return points.ENGINE.point(
            time.time_ns(),
            self._tags,
            {
                "num_steps": len(steps),
                "step_seconds": sum(took) / len(took) if took else None,
                "max_step_seconds": max(took, default=None),
                "busy_ratio": min(1.0, sum(took) / seconds),
                "prefill_tokens_per_second": sum(tokens for _, tokens, _ in steps) / seconds,
                "texts_per_second": sum(texts for texts, _, _ in steps) / seconds,
                "num_active": state.num_active,
                "num_waiting": state.num_waiting,
                "num_slots": self._num_slots,
                "num_threads_batch": num_threads,
                "num_dropped": num_dropped,
            },
        )
