"""The worker process: from a model file to a worker that serves. Composes; only the entry point imports it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import platform
import re
import typing
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

from broker import subjects
from broker.catalogue import entry_of, read_lock, verify
from broker.connection import Address, close, connect
from broker.errors import SettingsError, TurnpikeError
from broker.process import keep_the_heap_small
from workers.engine.calibration import calibrate, measure_threads
from workers.engine.protocol import EngineError
from workers.engine.threads import Threads, best
from workers.machine.cores import measured_alone, num_cores
from workers.model_file import ModelFileError, answering_parts
from workers.models import DEMO
from workers.settings import WorkerSettings

if typing.TYPE_CHECKING:
    from workers.engine.protocol import Engine
    from workers.llama.context import LlamaModel
    from workers.machine.memory import MemoryPlan

log = logging.getLogger(__name__)

CANONICAL_CHUNK = 128
"""Where the deterministic mode cuts prompts."""


def default_threads() -> int:
    return max(1, num_cores() - 1)


def check_threads(config: WorkerSettings) -> None:
    """Raises SettingsError for more threads than there are cores: they would wait for each other at every step."""
    if config.threads is not None and config.threads > num_cores():
        raise SettingsError([f"--threads: must be at most {num_cores()}, the cores that this process may use"])


def measured_threads(engine: Engine, config: WorkerSettings, fingerprint: str) -> int:
    """How many threads are best for this model on this machine alone: measured, or as it was measured before."""
    cpu = _first_line("/proc/cpuinfo", ("model name", "Model"))
    key = f"{fingerprint} {cpu} {num_cores()} {config.kv_type} {importlib.metadata.version('llama-cpp-python')} alone"
    path = Path(config.data_dir).expanduser() / "threads.json"
    seconds, when = measured_alone(partial(measure_threads, engine), path, key)
    chosen = best(seconds)
    times = " ".join(f"{num}:{each * 1000:.1f}ms" for num, each in sorted(seconds.items()))
    log.info("threads=%d a decode step by threads %s (measured %s)", chosen, times, when)
    return chosen


def model_token(path: Path) -> str:
    """A token for subjects made from a file's name: Llama-3.2-1B-Q4_0.gguf → Llama-3_2-1B-Q4_0."""
    return subjects.token(re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:64], "model")


def model_path(config: WorkerSettings) -> Path:
    """The file that the settings mean, verified where its hash is known. Raises TurnpikeError."""
    if config.model_file is not None:
        return answering_parts(Path(config.model_file).expanduser())[0]
    if config.model in (None, DEMO.token):
        return DEMO.verified()
    locked = entry_of(config.model, read_lock(Path(config.lock_file)), config.lock_file)
    return verify(config.model, locked, Path(config.models_dir).expanduser())


async def serve(address: Address, config: WorkerSettings, version: str, stop: asyncio.Event) -> int:
    """Loads the model, connects, serves until `stop`. Raises TurnpikeError in one line for what is wrong."""
    from broker.health import serve_health
    from workers.assembly import assemble
    from workers.engine.loop import EngineLoop
    from workers.engine.power import Power
    from workers.engine.protocol import MAX_OUTPUTS
    from workers.engine.scheduler import Scheduler
    from workers.engine.slots import Slots
    from workers.grammars.checker import GrammarChecker
    from workers.kv.cache import OffloadCache
    from workers.kv.disk import Disk
    from workers.llama.aborts import explain_aborts
    from workers.llama.context import (
        ContextOptions,
        LlamaEngine,
        LlamaModel,
        missing_features,
        system_info,
    )
    from workers.machine.memory import available_bytes, check_memory
    from workers.metrics import Shape, WorkerMetrics, copy_bandwidth
    from workers.options import WorkerOptions
    from workers.presence import abilities
    from workers.prompts.history import History
    from workers.prompts.renderer import TemplateRenderer

    config.check()
    check_threads(config)
    keep_the_heap_small()
    path = await asyncio.to_thread(model_path, config)
    explain_aborts(f"model file {path}")
    model_name = subjects.token(config.model, "model") if config.model else model_token(path)
    threads = config.threads or (default_threads() if config.deterministic else num_cores())
    nc = await connect(address, name=f"turnpike-worker-{model_name}")
    # Before the model is there, which needs the memory.
    peak = await asyncio.to_thread(copy_bandwidth, threads)
    with contextlib.ExitStack() as cleanup:
        model = await asyncio.to_thread(LlamaModel, path)
        cleanup.callback(model.close)
        num_ctx = min(config.num_ctx, model.num_ctx_train) if config.deterministic else config.num_ctx
        kv_shape = model.kv_shape.quantized(config.kv_type)
        plan = check_memory(
            kv_shape,
            file_bytes=model.file_bytes,
            num_ctx=num_ctx,
            num_ubatch=config.num_ubatch,
            max_outputs=max(MAX_OUTPUTS, config.num_slots),
            flash_attention=not config.deterministic,
            # The file is mapped by now, and counted in the plan; mapped pages count as available.
            available=available_bytes(),
            offload_cache=config.park_bytes,
        )
        options = ContextOptions(
            num_ctx=num_ctx,
            # One sequence at a time, in cells that no other's history has shifted.
            num_slots=1 if config.deterministic else config.num_slots,
            num_threads=threads,
            num_ubatch=config.num_ubatch,
            flash_attention=not config.deterministic,
            kv_type=config.kv_type,
        )
        engine = LlamaEngine(model, options)
        cpu_flags = set(_first_line("/proc/cpuinfo", ("flags", "Features")).split())
        cleanup.callback(engine.close)
        _report(system_info(), missing_features(cpu_flags, system_info()), plan, engine.buffers)
        canonical = CANONICAL_CHUNK if config.deterministic else 0
        chosen_threads = None
        with computing(path):
            if config.threads is None and not config.deterministic:
                threads = await asyncio.to_thread(measured_threads, engine, config, model.fingerprint)
                chosen_threads = Threads(num_cores(), threads)
                engine.num_threads = threads
            calibration = await asyncio.to_thread(calibrate, engine)
        scheduler = Scheduler(
            budget=config.step_budget_seconds,
            max_batch_tokens=engine.max_batch_tokens,
            max_batch_outputs=engine.max_batch_outputs,
            min_prefill_tokens=engine.min_prefill_tokens,
            canonical_chunk=canonical,
            costs=calibration.costs(),
        )
        slots = Slots(
            engine.num_slots,
            engine.num_ctx,
            can_remove_part=engine.can_remove_part,
            canonical_chunk=canonical,
            share_across_clients=config.share_prefixes,
        )
        vocabulary = model.vocabulary
        renderer = TemplateRenderer(
            model.chat_template,
            bos_token=vocabulary.text(vocabulary.bos),
            eos_token=vocabulary.text(vocabulary.eos),
        )
        history = History(renderer, vocabulary)
        layout = _layout(config, model.fingerprint)
        disk = None
        if config.disk_bytes and engine.can_remove_part:
            disk = Disk(
                Path(config.kv_dir or f"{config.data_dir}/kv").expanduser() / model_name,
                config.disk_bytes,
                layout,
                calibration.state_bytes,
                lambda key: history.recall(key.client, key.conversation),
            )
            cleanup.callback(disk.close)
            await asyncio.to_thread(
                disk.open,
                lambda key, told: history.adopt(key.client, key.conversation, told),
                wait_seconds=config.wait_seconds,
                while_waiting=lambda: _go_on_waiting(stop),
            )
        cache = OffloadCache(
            plan.offload_cache,
            disk,
            share_across_clients=config.share_prefixes,
            can_remove_part=engine.can_remove_part,
            canonical_chunk=canonical,
        )
        cleanup.callback(cache.close)
        await renderer.start()
        node = subjects.node_name(config.node)
        name = config.worker_name or f"{node[:48]}-{os.getpid()}"
        tags = {"node": node, "model": model_name, "quantization": model.quantization or "unknown", "worker": name}
        shape = Shape(model.file_bytes, kv_shape.bytes_per_token, peak)
        metrics = WorkerMetrics(tags, engine.num_slots, engine.num_ctx, shape)
        power = Power()
        loop = EngineLoop(
            engine,
            scheduler,
            slots,
            cache,
            canonical_chunk=canonical,
            threads=chosen_threads,
            on_step=metrics.on_step,
            power=power,
            calibration=calibration,
        )
        worker = assemble(
            nc,
            loop,
            history,
            GrammarChecker(vocabulary.matcher_process),
            WorkerOptions(
                name=name,
                model=model_name,
                model_name=model.name,
                quantization=model.quantization,
                node=node,
                version=version,
                fingerprint=model.fingerprint,
                coalesce_seconds=config.coalesce_seconds,
                overflow=config.overflow,
                state_fingerprint=layout,
                fetch_bytes_per_second=config.fetch_bytes_per_second,
                park_seconds=config.park_seconds,
                wait_seconds=config.wait_seconds,
                facts=_facts(config, model, threads, num_ctx),
                can=await abilities(renderer),
                may_differ=config.allow_other_file,
            ),
            cache=cache,
            metrics=metrics,
            power=power,
        )
        health: AbstractAsyncContextManager[object] = contextlib.nullcontext()
        if config.health_port is not None:
            health = serve_health(config.health_port, live=worker.stuck_reason, ready=worker.unready_reason)
        try:
            async with health:
                await worker.run(stop)
        finally:
            await renderer.close()
            await close(nc)
    return 0


def _go_on_waiting(stop: asyncio.Event) -> None:
    if stop.is_set():
        raise TurnpikeError("stopped before its folder of parked conversations was free")


@contextlib.contextmanager
def computing(path: Path) -> Iterator[None]:
    """What llama.cpp cannot compute at the start says something of the file, or of the settings, and no traceback."""
    try:
        yield
    except EngineError as error:
        reason = str(error) or "no cells for a first step"
        raise ModelFileError(path, f"llama.cpp cannot compute with it: {reason}") from None


def _layout(config: WorkerSettings, fingerprint: str) -> str:
    """What must be equal for a KV state to be used: the model file, the library's version, how cells are laid out."""
    kind = "canonical" if config.deterministic else "flash"
    return f"{fingerprint}-{importlib.metadata.version('llama-cpp-python')}-{config.kv_type}-{kind}"


def _sha256(config: WorkerSettings) -> str:
    """Of the model's file, where it was verified anyway; a file that was merely named is not read for it."""
    if config.model_file is not None:
        return ""
    if config.model in (None, DEMO.token):
        return DEMO.sha256
    return entry_of(config.model, read_lock(Path(config.lock_file)), config.lock_file).sha256


def _facts(config: WorkerSettings, model: LlamaModel, threads: int, num_ctx: int) -> dict[str, str]:
    """Build, machine and settings, for the records of whoever measures this worker."""
    from workers.llama.context import system_info

    found = {
        "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
        "llama.cpp": system_info().strip(),
        "file": model.path.name,
        "file_bytes": str(model.file_bytes),
        "file_sha256": _sha256(config),
        "cpu": _first_line("/proc/cpuinfo", ("model name", "Model")),
        "board": _text("/proc/device-tree/model"),
        "kernel": platform.release(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "cores": str(num_cores()),
        "threads": str(threads),
        "threads_are": "fixed" if config.threads or config.deterministic else "measured",
        "num_ctx": str(num_ctx),
        "flash_attention": str(not config.deterministic).lower(),
    }
    settings = (
        "deterministic",
        "kv_type",
        "overflow",
        "num_slots",
        "num_ubatch",
        "step_budget_seconds",
        "coalesce_seconds",
    )
    found |= {name: str(getattr(config, name)).lower() for name in settings}
    return {name: value for name, value in found.items() if value}


def _text(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip("\0\n ")
    return ""


def _first_line(path: str, names: tuple[str, ...]) -> str:
    """The value of the first line that begins with one of the names."""
    for line in _text(path).splitlines():
        if line.startswith(names):
            return line.partition(":")[2].strip()
    return ""


def _report(info: str, missing: list[str], plan: MemoryPlan, buffers: dict[str, float]) -> None:
    log.info("llama.cpp %s", info.strip())
    if missing:
        log.warning("llama.cpp was built without what this CPU has: %s", ", ".join(missing))
    log.info("memory %s", plan.describe())
    sizes = " ".join(f"{name.replace(' ', '_')}={size / 2**20:.0f}MiB" for name, size in buffers.items())
    log.info("memory llama.cpp has %s", sizes)
