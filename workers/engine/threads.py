"""How many threads a step takes: those that are of use alone, fewer while a neighbour has a core. Pure.

A decode step waits for memory, which two threads of a small board may read as fast as four; a prefill step computes,
and each core makes it quicker. So each of the two has a number of its own.

llama.cpp's threads wait for each other many times a step, so that a step is as slow as the thread that a busy neighbour
keeps from its core: with as many threads as cores, one neighbour costs not its share but most of the speed
(docs/benchmarks.md). How many are best is measured at the start, and looked at again with each step: one that is much
slower than its like is followed by a trial with a thread less, and now and then there is one with a thread more, as the
neighbour may have gone, or have been there at the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.engine.costs import LOGITS
from workers.engine.scheduler import MIN_PREFILL_TOKENS, Step

PREFILL = 0
"""The kind of a step that prefills; of a decode step it is the number of its tokens."""
AS_GOOD = 1.03
"""Within so much of the best, fewer threads are better: the board has others to serve."""
SLOW = {True: 1.6, False: 1.3}
"""A prefill step, a decode step that takes so many times what its like took is slow; prompts differ more."""
NUM_SLOW = 2
NUM_TRIED = {True: 1, False: 2}
"""Steps of a trial, prefill ones and decode ones."""
WORTH = 0.9
FIRST_WAIT = 1.0
MAX_WAIT = 16.0
"""Seconds between trials that do not pay: doubled from the first to the longest."""
_SMOOTHING = 0.3


def candidates(num_cores: int) -> list[int]:
    """What to measure."""
    return sorted({max(1, num_cores // 2), max(1, num_cores - 1), num_cores})


def best(seconds: Mapping[int, float]) -> int:
    """Of the measured numbers of threads the smallest that is as good as the quickest."""
    least = min(seconds.values())
    return min(num for num, each in seconds.items() if each <= AS_GOOD * least)


@dataclass
class _Trial:
    kind: int
    num_threads: int
    to_beat: float
    costs: list[float] = field(default_factory=list)


@dataclass
class _Wait:
    """When the next trial in one direction may be."""

    seconds: float = FIRST_WAIT
    until: float = 0.0

    def failed(self, now: float) -> None:
        self.until = now + self.seconds
        self.seconds = min(2 * self.seconds, MAX_WAIT)

    def begin(self, now: float) -> None:
        self.seconds = FIRST_WAIT
        self.until = now + FIRST_WAIT


@dataclass(frozen=True)
class FixedThreads:
    """As many as were asked for, whatever steps take."""

    current: int

    @property
    def next(self) -> int:
        """Those of the next step."""
        return self.current

    def update(self, kind: int, cost: float, now: float) -> int:
        """Takes note of nothing; the threads of the next step."""
        return self.current


class Threads:
    """Told of each step, says how many threads the next one takes: from 1 to `most`, at first `first`."""

    def __init__(self, most: int, first: int | None = None) -> None:
        self.most = most
        self.current = first if first is not None else most
        """Those that steps take, but for the ones of a trial."""
        self._usual: dict[tuple[int, int], float] = {}
        """What a step costs, by threads and kind: seconds of a decode step, seconds a token of a prefill step."""
        self._slow: list[float] = []
        self._trial: _Trial | None = None
        self._down = _Wait()
        self._up = _Wait()

    @property
    def next(self) -> int:
        """Those of the next step."""
        return self.current if self._trial is None else self._trial.num_threads

    def update(self, kind: int, cost: float, now: float) -> int:
        """Takes note of a step by its kind (PREFILL, or how many tokens decode) and its cost (seconds a token,
        seconds); the threads of the next."""
        if self._trial is not None:
            return self._tried(self._trial, kind, cost, now)
        key = (self.current, kind)
        usual = self._usual.get(key)
        is_prefill = kind == PREFILL
        if usual is not None and cost > SLOW[is_prefill] * usual:
            self._slow.append(cost)
        else:
            self._slow.clear()
            self._usual[key] = cost if usual is None else usual + _SMOOTHING * (cost - usual)
        if len(self._slow) >= NUM_SLOW:
            slow = sum(self._slow) / len(self._slow)
            self._slow.clear()
            if self.current > 1 and now >= self._down.until:
                return self._try(_Trial(kind, self.current - 1, slow))
            self._usual[key] = slow
        elif usual is not None and self.current < self.most and now >= self._up.until:
            return self._try(_Trial(kind, self.current + 1, usual))
        return self.current

    def _try(self, trial: _Trial) -> int:
        self._trial = trial
        return trial.num_threads

    def _tried(self, trial: _Trial, kind: int, cost: float, now: float) -> int:
        wait = self._down if trial.num_threads < self.current else self._up
        if kind != trial.kind:
            # Another batch: nothing to compare with.
            self._trial = None
            wait.failed(now)
            return self.current
        trial.costs.append(cost)
        if len(trial.costs) < NUM_TRIED[kind == PREFILL]:
            return trial.num_threads
        self._trial = None
        mean = sum(trial.costs) / len(trial.costs)
        if mean < WORTH * trial.to_beat:
            self.current = trial.num_threads
            self._usual[self.current, kind] = mean
            for one in (self._down, self._up):
                one.begin(now)
        elif max(1, self.most // 2) < trial.num_threads < self.current:
            return self._try(_Trial(kind, trial.num_threads - 1, trial.to_beat))  # more neighbours than one
        else:
            self._usual[self.current, kind] = trial.to_beat  # that is what it costs now
            wait.failed(now)
        return self.current


class StepThreads:
    """The threads of decode steps and those of prefill steps, each learnt from its own kind."""

    def __init__(
        self,
        decode: Threads | FixedThreads,
        prefill: Threads | FixedThreads,
        min_prefill_tokens: int = MIN_PREFILL_TOKENS,
    ) -> None:
        """Steps with fewer tokens of prompts than `min_prefill_tokens`, and some, say nothing: they cost nearly as
        much as with so many. A step with streams and prompts in it is one of prompts."""
        self.decode = decode
        self.prefill = prefill
        self._min_prefill_tokens = min_prefill_tokens
        self._most: int | None = None

    def limit_to(self, num: int | None) -> None:
        """From the next step on none takes more, whatever is best alone: other models of the board have the rest of its
        cores. None: as many as are best. Not where they are fixed. Of any thread."""
        self._most = num

    def of(self, step: Step) -> int:
        """Those that a step takes which is to come."""
        return self._limited(self.decode if step.is_decode else self.prefill)

    def _limited(self, threads: Threads | FixedThreads) -> int:
        most = self._most
        return threads.next if most is None or isinstance(threads, FixedThreads) else min(threads.next, most)

    def after(self, step: Step, seconds: float, now: float) -> None:
        """Takes note of a step that took so long, if it says anything: one with fewer threads than were chosen says
        nothing of those."""
        chosen = self.decode if step.is_decode else self.prefill
        if self._limited(chosen) < chosen.next:
            return
        if step.is_decode:
            self.decode.update(step.num_tokens, seconds, now)
        elif step.num_prefill_tokens >= self._min_prefill_tokens:
            # A stream's token beside a prompt's costs as much as so many of those.
            num_tokens = step.num_prefill_tokens + LOGITS * step.num_decoding
            self.prefill.update(PREFILL, seconds / num_tokens, now)
