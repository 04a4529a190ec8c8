"""How many threads a worker computes with: those that were asked for, or those that are measured to be best."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from broker.errors import SettingsError
from workers.engine.calibration import measure_prefill_threads, measure_threads
from workers.engine.polling import PollCost, measure_polling, name, quietest
from workers.engine.protocol import Engine
from workers.engine.threads import FixedThreads, StepThreads, Threads, best, candidates
from workers.machine.cores import measured_alone, num_cores, others_now
from workers.machine.facts import cpu_name
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)

Measure = Callable[[Engine, Iterable[int]], dict[int, float]]


def default_threads() -> int:
    """In the deterministic mode: one core is left to everything else."""
    return max(1, num_cores() - 1)


def fixed_threads(config: WorkerSettings) -> tuple[int | None, int | None]:
    """The threads of a decode step and of a prefill step where the settings say how many; `threads` alone says both."""
    decode = config.threads or (default_threads() if config.deterministic else None)
    return decode, config.threads_batch or decode


def step_threads(
    engine: Engine, config: WorkerSettings, fingerprint: str, others: Callable[[], float | None] = others_now
) -> StepThreads:
    """How many threads are best for this model on this machine alone, decoding and prefilling: as the settings say, or
    measured, now or before; a board's worker asks first how many cores `others` have. Raises EngineError."""
    decode, prefill = fixed_threads(config)
    key = machine_key(config, fingerprint)
    return StepThreads(
        _chosen(decode, measure_threads, "threads", "decode step", key, engine, config, others),
        _chosen(
            prefill,
            measure_prefill_threads,
            "threads_batch",
            "prompt's token",
            f"{key} prefill",
            engine,
            config,
            others,
        ),
        engine.min_prefill_tokens,
    )


def machine_key(config: WorkerSettings, fingerprint: str) -> str:
    """Under which what was measured alone of this model here is kept."""
    version = importlib.metadata.version("llama-cpp-python")
    return f"{fingerprint} {cpu_name()} {num_cores()} {config.kv_type} {version} alone"


def kept_file(config: WorkerSettings) -> Path:
    """Where it is kept."""
    return Path(config.data_dir).expanduser() / "threads.json"


def _chosen(
    fixed: int | None,
    measure: Measure,
    name: str,
    what: str,
    key: str,
    engine: Engine,
    config: WorkerSettings,
    others: Callable[[], float | None],
) -> Threads | FixedThreads:
    if fixed is not None:
        log.info("%s=%d (fixed)", name, fixed)
        return FixedThreads(fixed)
    num = num_cores()
    measured = measured_alone(
        lambda: measure(engine, candidates(num)),
        dict[int, float],
        kept_file(config),
        key,
        instead={num: 0.0} if config.board_fd is not None else None,  # a board loads what somebody waits for
        others_at_first=others,
        is_urgent=config.board_fd is not None,
    )
    chosen = best(measured.found)
    times = " ".join(f"{num}:{each * 1000:.1f}ms" for num, each in sorted(measured.found.items()))
    log.info("%s=%d a %s by threads %s (measured %s)", name, chosen, what, times, measured.when)
    return Threads(num, chosen)


def choose_polling(
    engine: Engine,
    config: WorkerSettings,
    fingerprint: str,
    threads: StepThreads,
    *,
    has_openmp: bool,
    others: Callable[[], float | None] = others_now,
) -> None:
    """Sets how the engine's threads wait for their next step: as the settings say, or as it was measured to be best,
    while nobody else had the cores; else as llama.cpp does by itself. Raises EngineError, SettingsError."""
    if has_openmp:
        if config.poll is not None:
            why = "this llama.cpp was built with OpenMP, whose threads wait as OMP_WAIT_POLICY says"
            raise SettingsError([f"--poll: {why}: build it with -DGGML_OPENMP=OFF"])
        log.info("poll=openmp (OMP_WAIT_POLICY and its like say how threads wait)")
        return
    is_measured = config.poll is None and config.threads is None and not config.deterministic
    if not is_measured or threads.decode.next == 1:
        engine.poll = config.poll
        log.info("poll=%s (%s)", name(config.poll), "fixed" if config.poll is not None else "not measured")
        return
    engine.num_threads = threads.decode.next
    key = f"{machine_key(config, fingerprint)} poll {engine.num_threads}"
    measured = measured_alone(
        lambda: measure_polling(engine),
        dict[str, PollCost],
        kept_file(config),
        key,
        instead={} if config.board_fd is not None else None,
        others_at_first=others,
        is_urgent=config.board_fd is not None,
    )
    # Beside a neighbour threads that look for work take its cores, and what was measured holds for that hour only.
    engine.poll = quietest(measured.found) if measured.is_alone else None
    times = " ".join(
        f"{level}:{1000 * cost.decode_seconds:.1f}+{1000 * cost.python_seconds:.2f}ms"
        for level, cost in measured.found.items()
    )
    what = "a decode step + Python's work behind it"
    log.info("poll=%s %s %s (measured %s)", name(engine.poll), what, times, measured.when)
