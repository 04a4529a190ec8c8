"""`turnpike worker`, with the instant of each token's choice written to a file at its end: TRACE worker FLAGS…"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from benchmarks.own_worker import run
from workers.assembly import Parts, assemble
from workers.engine.events import Event, Generated
from workers.engine.loop import EngineLoop
from workers.engine_runner import EngineRunner
from workers.kv.cache import OffloadCache
from workers.turns.in_hand import TurnsInHand
from workers.worker import Worker


class TracedRunner(EngineRunner):
    """Notes when each token was told, in the engine's thread: right behind the step that it was chosen in."""

    def __init__(self, loop: EngineLoop, cache: OffloadCache, in_hand: TurnsInHand, park_seconds: float) -> None:
        super().__init__(loop, cache, in_hand, park_seconds)
        self.chosen_at: list[float] = []
        """By perf_counter, which is CLOCK_MONOTONIC and the same for all processes of a machine."""

    def on_round(self, events: list[Event]) -> None:
        now = time.perf_counter()
        num_tokens = sum(len(event.tokens) for event in events if isinstance(event, Generated))
        self.chosen_at += [now] * num_tokens


class Tracing:
    """An assembly that keeps the runner that it made."""

    runner: TracedRunner | None = None

    def assemble(self, parts: Parts) -> Worker:
        """A worker as always, but for its runner."""
        worker = assemble(parts)
        self.runner = TracedRunner(parts.loop, parts.cache, worker.turns.in_hand, parts.options.park_seconds)
        return dataclasses.replace(worker, engine=self.runner)


def main() -> int:
    if len(sys.argv) < 3:
        sys.exit("usage: python -m benchmarks.traced_worker TRACE worker FLAGS…")
    trace = Path(sys.argv.pop(1))
    tracing = Tracing()
    code = run(tracing.assemble)
    assert tracing.runner is not None, "the worker was put together without us"
    trace.write_text("\n".join(map(repr, tracing.runner.chosen_at)))
    return code


if __name__ == "__main__":
    sys.exit(main())
