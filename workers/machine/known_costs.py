"""What a worker finds out about its machine and its model before anybody waits, or knows from an earlier start: with
all of it known, a start measures nothing."""

from __future__ import annotations

import hashlib
import logging

from workers.engine.calibration import Calibration, calibrate
from workers.engine.protocol import Engine
from workers.engine.threads import StepThreads
from workers.machine.bandwidth import ReadBandwidth, buffer_bytes, read_bandwidth
from workers.machine.cores import measured_alone, num_cores
from workers.machine.facts import cpu_name
from workers.machine.memory import available_bytes
from workers.machine.thread_count import kept_file, machine_key
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)


def memory_reads(config: WorkerSettings) -> ReadBandwidth:
    """How fast this machine's memory is read. Blocks; where it has to be measured, before the model is there, which
    needs the memory."""
    num_bytes = buffer_bytes(available_bytes())
    measured = measured_alone(
        lambda: read_bandwidth(num_cores(), num_bytes).by_threads,
        dict[int, float],
        kept_file(config),
        f"memory {cpu_name()} {num_cores()} {num_bytes}",
        is_urgent=config.board_fd is not None,
    )
    found = ReadBandwidth(measured.found)
    log.info("memory reads %s (measured %s)", found.describe(), measured.when)
    return found


def step_costs(
    engine: Engine, config: WorkerSettings, fingerprint: str, threads: StepThreads, build: str
) -> Calibration:
    """What a step costs, and how long a sequence's state is: of this file by this `build` in a context like this one.
    Steps as they are taken correct the costs. Blocks. Raises EngineError."""
    context = (
        engine.num_ctx,
        engine.num_slots,
        engine.max_batch_tokens,
        config.num_ubatch,
        config.deterministic,
        config.guesses,
        threads.decode.next,
        threads.prefill.next,
        hashlib.sha256(build.encode()).hexdigest()[:8],
    )
    measured = measured_alone(
        lambda: calibrate(engine, threads=threads, guesses=config.guesses),
        Calibration,
        kept_file(config),
        f"{machine_key(config, fingerprint)} steps {' '.join(map(str, context))}",
        is_urgent=config.board_fd is not None,
    )
    found = measured.found
    decode, prefill = found.decode_seconds or 0.0, found.prefill_seconds_per_token or 0.0
    log.info("decode_ms=%.1f prefill_ms_per_token=%.2f (measured %s)", 1e3 * decode, 1e3 * prefill, measured.when)
    return found
