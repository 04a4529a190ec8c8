"""What a step costs on this machine, measured by taking some before anybody waits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from workers.engine.costs import CostModel
from workers.engine.protocol import Engine, Span
from workers.engine.row_costs import RowCosts
from workers.engine.scheduler import MIN_PREFILL_TOKENS
from workers.engine.threads import StepThreads
from workers.kv.checks import StateLayout

WARM_UP_TOKENS = 64
MORE_ROWS = (4, 8)
"""Of decode steps that are measured where guesses may fill them; all others are learnt as they come."""
THREADS_SECONDS = {True: 0.3, False: 0.6}
"""For each number of threads that is tried at the start, with prefill steps and with decode steps."""


@dataclass(frozen=True)
class Calibration:
    """What a step with one sequence takes, and how long a sequence's state is."""

    prefill_seconds_per_token: float | None = None
    """None, as `decode_seconds`, where nothing was measured."""
    decode_seconds: float | None = None
    state_begin_bytes: int = 0
    state_bytes_per_token: int = 0
    window: int = 0
    window_bytes_per_token: int = 0
    checkpoint_begin_bytes: int = 0
    row_seconds: Mapping[int, float] = field(default_factory=dict)
    """What a decode step with more rows than one takes, by their number."""

    def costs(self) -> CostModel:
        """A cost model that begins with what was measured."""
        if self.prefill_seconds_per_token is None or self.decode_seconds is None:
            return CostModel()
        rows = RowCosts({1: self.decode_seconds, **self.row_seconds})
        return CostModel.measured(self.prefill_seconds_per_token, WARM_UP_TOKENS, rows)

    def layout(self, fingerprint: str) -> StateLayout:
        """What states are like, where `fingerprint` is of the model file and of all else that decides it."""
        return StateLayout(
            fingerprint,
            self.state_begin_bytes,
            self.state_bytes_per_token,
            self.window,
            self.window_bytes_per_token,
            self.checkpoint_begin_bytes,
        )


UNMEASURED = Calibration()
"""Of an engine that no step was taken with before its loop was made."""


def _prompt(num_tokens: int) -> tuple[int, ...]:
    """Tokens that every vocabulary has."""
    return tuple(index % MIN_PREFILL_TOKENS for index in range(num_tokens))


def decode_steps(engine: Engine, clock: Callable[[], float]) -> Iterator[tuple[float, int]]:
    """Decode steps of one sequence without end: the seconds of each, and the row of its logits. Raises EngineError."""
    begin = min(MIN_PREFILL_TOKENS, engine.max_sequence_tokens // 2)
    while True:  # a small context is full before the time is over
        _compute_chunk(engine, begin)
        for at in range(begin, engine.max_sequence_tokens):
            started = clock()
            ((row,),) = engine.decode([Span(0, at, (1,), at)])
            yield clock() - started, row


def measure_threads(
    engine: Engine, candidates: Iterable[int], clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Seconds of a decode step by number of threads, the median of some each. Raises EngineError."""
    seconds: dict[int, float] = {}
    for engine.num_threads in candidates:
        taken: list[float] = []
        began = clock()
        for each, _ in decode_steps(engine, clock):
            taken.append(each)
            if len(taken) >= 3 and clock() - began >= THREADS_SECONDS[False]:
                break
        seconds[engine.num_threads] = statistics.median(taken)
    engine.truncate(0, 0)
    return seconds


def measure_prefill_threads(
    engine: Engine, candidates: Iterable[int], clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Seconds a token of a chunk of a prompt by number of threads: the median of some each, or one that takes as long
    as all of them may. Raises EngineError."""
    seconds: dict[int, float] = {}
    num_tokens = _chunk_tokens(engine)
    _compute_chunk(engine, num_tokens)  # the first one pays for the memory's first touch
    for engine.num_threads in candidates:
        taken: list[float] = []
        began = clock()
        while clock() - began < THREADS_SECONDS[True] or not taken:
            started = clock()
            _compute_chunk(engine, num_tokens)
            taken.append((clock() - started) / num_tokens)
        seconds[engine.num_threads] = statistics.median(taken)
    engine.truncate(0, 0)
    return seconds


def _chunk_tokens(engine: Engine) -> int:
    """Of a chunk within a window, so that a token behind it adds to what it has."""
    room = min(engine.max_sequence_tokens - 1, engine.window or engine.max_sequence_tokens) - 1
    return max(1, min(WARM_UP_TOKENS, engine.max_batch_tokens, room))


def _compute_chunk(engine: Engine, num_tokens: int) -> None:
    engine.truncate(0, 0)
    engine.decode([Span(0, 0, _prompt(num_tokens), num_tokens - 1)])


def measure_rows(
    engine: Engine, rows: Iterable[int] = MORE_ROWS, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Seconds of a decode step by number of rows, the quicker of two, behind a short prompt. Raises EngineError."""
    begin = min(MIN_PREFILL_TOKENS, engine.max_sequence_tokens // 2)
    seconds: dict[int, float] = {}
    for num_rows in rows:
        taken = []
        for _ in range(2):
            _compute_chunk(engine, begin)
            started = clock()
            engine.decode([Span(0, begin, (1,) * num_rows, begin)])
            taken.append(max(clock() - started, 1e-6))
        seconds[num_rows] = min(taken)
    engine.truncate(0, 0)
    return seconds


def _checkpoint_bytes(engine: Engine) -> int:
    return 0 if engine.can_remove_part else engine.checkpoint_bytes(0)


def calibrate(
    engine: Engine,
    clock: Callable[[], float] = time.perf_counter,
    threads: StepThreads | None = None,
    *,
    guesses: bool = False,
) -> Calibration:
    """Takes a prefill and a decode step twice: the first time pays for the memory's first touch. Each with the threads
    of its kind, where `threads` says how many. With `guesses` it takes decode steps of more rows, too, where what was
    guessed can be taken back. Raises EngineError."""
    num_tokens = _chunk_tokens(engine)
    for _ in range(2):
        if threads is not None:
            engine.num_threads = threads.prefill.next
        started = clock()
        _compute_chunk(engine, num_tokens)
        middle = clock()
        first, checkpoint = engine.state_bytes(0), _checkpoint_bytes(engine)
        if threads is not None:
            engine.num_threads = threads.decode.next
        began = clock()
        engine.decode([Span(0, num_tokens, (0,), num_tokens)])
        finished = clock()
        each, each_in_window = engine.state_bytes(0) - first, _checkpoint_bytes(engine) - checkpoint
        found = Calibration(
            max(middle - started, 1e-6) / num_tokens,
            max(finished - began, 1e-6),
            first - each * num_tokens,
            each - each_in_window,
            engine.window,
            each_in_window,
            checkpoint - each_in_window * num_tokens,
        )
    engine.truncate(0, 0)
    has_more = guesses and engine.can_remove_part
    return replace(found, row_seconds=measure_rows(engine, clock=clock)) if has_more else found
