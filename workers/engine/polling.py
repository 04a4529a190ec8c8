"""How llama.cpp's threads wait for the next step, and what that costs: steps, and Python's work beside them.

Threads that look for work all the time begin a step at once, where those that sleep have to be woken; but they keep the
cores from everything else, and between two steps of this engine Python chooses tokens and tells of them. So both are
measured together: what a decode step takes, and how long after it a thread that is woken for its tokens has done a
little.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from queue import SimpleQueue

from msgspec import Struct

from workers.engine.calibration import decode_steps
from workers.engine.protocol import Engine
from workers.engine.threads import AS_GOOD

LEVELS: tuple[int | None, ...] = (None, 0, 50)
"""What is tried, the quietest first: threads made for each step and ended with it, as llama.cpp does by itself; kept,
and asleep between steps; kept, and looking for work as long as llama.cpp's own programs let them."""
POLLING_SECONDS = 0.4
"""For each level."""
LEAST_STEPS = 5
TOLD_WORK = 10_000
"""Numbers that are summed up for a step: some tenths of a millisecond of Python on a small board."""


class PollCost(Struct, frozen=True):
    """Medians, in seconds."""

    decode_seconds: float
    """Of a decode step."""
    python_seconds: float
    """From its end until another thread, woken by it, has done its little work beside the next one."""

    @property
    def seconds(self) -> float:
        """Until a token is computed and told."""
        return self.decode_seconds + self.python_seconds


def quietest(costs: Mapping[str, PollCost]) -> int | None:
    """Of the measured levels the first that is as good as the best."""
    known = {level: costs[name(level)].seconds for level in LEVELS if name(level) in costs}
    return next((level for level, seconds in known.items() if seconds <= AS_GOOD * min(known.values())), None)


def name(level: int | None) -> str:
    """Of a level, in what is kept and told."""
    return "none" if level is None else str(level)


def measure_polling(
    engine: Engine, levels: Iterable[int | None] = LEVELS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, PollCost]:
    """What each level costs, by its name, with the threads that the engine has. Raises EngineError."""
    found: dict[str, PollCost] = {}
    before = engine.poll
    try:
        for engine.poll in levels:
            found[name(engine.poll)] = _measure(engine, clock)
    finally:
        engine.poll = before
        engine.truncate(0, 0)
    return found


def _measure(engine: Engine, clock: Callable[[], float]) -> PollCost:
    steps: list[float] = []
    told: list[float] = []
    ended: SimpleQueue[float | None] = SimpleQueue()
    teller = threading.Thread(target=_tell, args=(ended, told, clock), name="measured", daemon=True)
    teller.start()
    began = clock()
    try:
        for seconds, row in decode_steps(engine, clock):
            steps.append(seconds)
            engine.is_likeliest(row, 1)  # as a token is chosen
            ended.put(clock())
            if len(steps) >= LEAST_STEPS and clock() - began >= POLLING_SECONDS:
                break
    finally:
        ended.put(None)
        teller.join()
    return PollCost(statistics.median(steps), statistics.median(told))


def _tell(ended: SimpleQueue[float | None], told: list[float], clock: Callable[[], float]) -> None:
    """Stands in for the thread that tells clients of tokens."""
    while (at := ended.get()) is not None:
        sum(range(TOLD_WORK))
        told.append(clock() - at)
