"""How many threads a worker computes with: those that were asked for, or those that are measured to be best."""

from __future__ import annotations

import importlib.metadata
import logging
from functools import partial
from pathlib import Path

from broker.errors import SettingsError
from workers.engine.calibration import measure_threads
from workers.engine.protocol import Engine
from workers.engine.threads import best
from workers.machine.cores import measured_alone, num_cores
from workers.machine.facts import cpu_name
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)


def default_threads() -> int:
    """In the deterministic mode: one core is left to everything else."""
    return max(1, num_cores() - 1)


def check_threads(config: WorkerSettings) -> None:
    """Raises SettingsError for more threads than there are cores: they would wait for each other at every step."""
    if config.threads is not None and config.threads > num_cores():
        raise SettingsError([f"--threads: must be at most {num_cores()}, the cores that this process may use"])


def measured_threads(engine: Engine, config: WorkerSettings, fingerprint: str) -> int:
    """How many threads are best for this model on this machine alone: measured, or as it was measured before."""
    version = importlib.metadata.version("llama-cpp-python")
    key = f"{fingerprint} {cpu_name()} {num_cores()} {config.kv_type} {version} alone"
    path = Path(config.data_dir).expanduser() / "threads.json"
    seconds, when = measured_alone(partial(measure_threads, engine), path, key)
    chosen = best(seconds)
    times = " ".join(f"{num}:{each * 1000:.1f}ms" for num, each in sorted(seconds.items()))
    log.info("threads=%d a decode step by threads %s (measured %s)", chosen, times, when)
    return chosen
