"""A step's threads, and what it took: learnt for the next ones, charged to its jobs, told to whoever counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from workers.engine.active import ActiveJob
from workers.engine.power import Power
from workers.engine.protocol import Engine
from workers.engine.scheduler import Step
from workers.engine.threads import StepThreads


class Accounts:
    """Told of each step once its tokens are chosen: choosing them is part of what it took."""

    def __init__(
        self,
        engine: Engine,
        threads: StepThreads | None,
        on_step: Callable[[Step, float], None] | None,
        power: Power | None,
    ) -> None:
        self._engine = engine
        self._threads = threads
        self._on_step = on_step
        self._power = power or Power()

    def prepare(self, step: Step) -> None:
        """Sets the threads that a step is computed with: those of its kind."""
        if self._threads is not None and (num_threads := self._threads.of(step)) != self._engine.num_threads:
            self._engine.num_threads = num_threads

    def note(self, step: Step, seconds: float, now: float, jobs: Mapping[str, ActiveJob], computing: float) -> None:
        """Shares the step's seconds, and what the node drew meanwhile, among its jobs by their tokens; learns from what
        it took itself, `computing`, how many threads the next of its kind takes."""
        num_tokens, watts = step.num_tokens, self._power.watts
        for index, (sequence, span) in enumerate(zip(step.sequences, step.spans, strict=True)):
            is_prefill = index >= step.num_decoding
            jobs[sequence.id].charge(seconds * len(span.tokens) / num_tokens, watts, is_prefill=is_prefill)
        if self._threads is not None:
            self._threads.after(step, computing, now)
        if self._on_step is not None:
            self._on_step(step, seconds)
