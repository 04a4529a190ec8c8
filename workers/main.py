"""The worker process: from a model file to a worker that serves. Composes; only the entry point imports it.

`serve` tells the order: the file, the connection, the model in its context, measured; the conversations that are kept;
the engine loop; the worker. Each is whole when it is made, and is given to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import logging
import typing
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from nats.aio.client import Client as NatsConnection

from broker import discovery, subjects
from broker.connection import Address, close, connect
from broker.process import keep_the_heap_small
from workers.answer_syntax import answer_readers
from workers.assembly import Assembly, Parts, assemble
from workers.boards.line import BoardLine, FromBoard
from workers.boards.loading import MEASURE, READ, READY, WEIGHTS, Loading
from workers.calls import Syntax, syntax_of
from workers.calls.writing import writer
from workers.chosen_file import model_path, model_token
from workers.engine.calibration import Calibration
from workers.engine.draft_context import DraftContext
from workers.engine.drafting import Drafting
from workers.engine.loop import EngineLoop
from workers.engine.power import Power
from workers.engine.protocol import EngineError
from workers.engine.scheduler import Scheduler
from workers.engine.slots import Slots
from workers.engine.threads import StepThreads
from workers.grammars.checker import GrammarChecker
from workers.identity import Identity, tags_of
from workers.kv.cache import OffloadCache
from workers.kv.opening import open_cache
from workers.machine.bandwidth import ReadBandwidth
from workers.machine.cores import others_now
from workers.machine.known_costs import memory_reads, step_costs
from workers.machine.memory import MemoryPlan, available_bytes
from workers.machine.model_plan import draft_size, plan_of
from workers.machine.thread_count import choose_polling, step_threads
from workers.model_facts import bytes_for_a_token
from workers.model_file import ModelFileError, answering_parts, embeds
from workers.prompts.chat_template import catalogued
from workers.prompts.history import History
from workers.prompts.renderer import TemplateProcess, TemplateRenderer
from workers.reporting.facts import memory_facts, setting_facts, thread_facts
from workers.reporting.metrics import Shape, WorkerMetrics
from workers.reporting.presence import PLAIN_ABILITIES, abilities
from workers.settings import WorkerSettings
from workers.worker import Worker, probed
from workers.worker_options import WorkerOptions, in_a_hurry

if typing.TYPE_CHECKING:
    from workers.llama.context import LlamaEngine, LlamaModel

log = logging.getLogger(__name__)

CANONICAL_CHUNK = 128
"""Where the deterministic mode cuts prompts."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in its context, and what was found out about the two before anybody waits."""

    name: str
    """In subjects."""
    model: LlamaModel
    engine: LlamaEngine
    plan: MemoryPlan
    num_ctx: int
    threads: StepThreads
    """As they were chosen, and are from step to step where they are measured."""
    bandwidth: ReadBandwidth
    """Of memory, before the model was there."""
    calibration: Calibration
    layout: str
    """What must be equal for a KV state to be used: the model file, the library's version, how cells are laid out."""
    active_bytes: int
    """Of its weights, what a token is computed with."""
    draft: DraftContext | None = None
    """Of the model that proposes what may follow."""
    has_others: bool = True
    """Whether the model had workers while this one loaded it."""


async def serve(
    address: Address,
    config: WorkerSettings,
    version: str,
    stop: asyncio.Event,
    *,
    assembly: Assembly = assemble,
) -> int:
    """Loads the model, connects, serves until `stop`. Raises TurnpikeError in one line for what is wrong."""
    from workers.llama.aborts import explain_aborts

    config.check()
    keep_the_heap_small()
    async with AsyncExitStack() as leaving:
        cleanup = leaving.enter_context(ExitStack())
        line = cleanup.enter_context(BoardLine(config.board_fd, stop))
        loading, templates = Loading(), TemplateProcess()
        line.loading(lambda: loading.told)
        leaving.push_async_callback(templates.close)
        await templates.begin()
        if config.board_fd is not None and config.model is None:
            if (given := await _given(line, loading, stop)) is None:
                return 0
            config = msgspec.structs.replace(config, model=given.model, park_bytes=given.park_bytes)
        loading.begin(READ)
        path = await asyncio.to_thread(model_path, config, loading.read)
        await asyncio.to_thread(draft_size, config)  # whether it is a model at all is said before anything is loaded
        explain_aborts(f"model file {path}")
        name = subjects.token(config.model, "model") if config.model else model_token(path)
        if await asyncio.to_thread(embeds, path):
            from workers.embedding.serving import serve_embeddings

            await templates.close()
            return await serve_embeddings(address, config, path, name, version, stop, line, loading)
        nc = await connect(address, name=f"turnpike-worker-{name}")
        loaded = await _load_among_others(nc, path, name, config, cleanup, loading)
        syntax = syntax_of(loaded.model.chat_template or "", config.tool_syntax or "")
        renderer = _renderer(loaded.model, config, templates, syntax)
        history = History(
            renderer,
            loaded.model.vocabulary,
            thoughts=syntax.thoughts,
            raw_as_text=config.raw_as_text,
            by_text=config.deterministic,
            has_boundaries=_checkpoint_bytes(loaded) > 0,
        )
        cache = await _open_cache(loaded, config, history, stop, cleanup)
        await renderer.start()
        try:
            worker = await _assemble(nc, loaded, config, version, history, renderer, cache, assembly)
            line.serving(lambda: loading.served(worker.told()), loaded.threads.limit_to)
            async with probed(worker, config.health_port):
                await worker.run(stop)
        finally:
            await renderer.close()
            await close(nc)
    return 0


def _renderer(
    model: LlamaModel, config: WorkerSettings, templates: TemplateProcess, syntax: Syntax
) -> TemplateRenderer:
    vocabulary = model.vocabulary
    return TemplateRenderer(
        model.chat_template,
        bos_token=vocabulary.text(vocabulary.bos),
        eos_token=vocabulary.text(vocabulary.eos),
        date=config.template_date or ("none" if config.deterministic else "today"),
        write=writer(syntax),
        child=templates,
    )


async def _given(line: BoardLine, loading: Loading, stop: asyncio.Event) -> FromBoard | None:
    """The model of a worker that was started ahead, with all ready that is of no model; None where it is to end."""
    from workers.llama import backend, draft, sizing  # noqa: F401

    backend.messages()
    given = await line.given(stop)
    loading.begin_anew()
    return given


# --- The model ---


async def _load_among_others(
    nc: NatsConnection, path: Path, name: str, config: WorkerSettings, cleanup: ExitStack, loading: Loading
) -> LoadedModel:
    """As `_load`; the model's other workers are looked for meanwhile, where a board waits for this one."""
    if config.board_fd is None:
        return await _load(path, name, config, cleanup, loading)
    loaded, others = await asyncio.gather(
        _load(path, name, config, cleanup, loading), discovery.find_workers(nc, WorkerOptions.look_seconds)
    )
    return replace(loaded, has_others=any(one.model == name for one in others))


async def _load(path: Path, name: str, config: WorkerSettings, cleanup: ExitStack, loading: Loading) -> LoadedModel:
    """The model in a context that fits into memory, its threads and rates measured."""
    from workers.llama.backend import has_openmp, system_info
    from workers.llama.context import LlamaEngine, LlamaModel
    from workers.llama.draft import open_draft
    from workers.llama.sizing import context_options, report

    plan, num_ctx = await asyncio.to_thread(lambda: plan_of(answering_parts(path), config, available_bytes()))
    bandwidth = await asyncio.to_thread(memory_reads, config)
    loading.begin(WEIGHTS)
    known = catalogued(config.model if config.model_file is None else None)
    is_paged = config.resident_bytes is not None
    model = await asyncio.to_thread(
        LlamaModel, path, is_paged=is_paged, chat_template=config.chat_template, of_catalogue=known, heard=loading.at
    )
    cleanup.callback(model.close)
    model.template.tell()
    options = context_options(config, num_ctx)
    engine = LlamaEngine(model, options)
    cleanup.callback(engine.close)
    report(plan, engine.buffers)
    loading.begin(MEASURE)
    with computing(path):
        others = functools.cache(others_now)
        threads = await asyncio.to_thread(step_threads, engine, config, model.fingerprint, others)
        await asyncio.to_thread(
            choose_polling, engine, config, model.fingerprint, threads, has_openmp=has_openmp(), others=others
        )
        calibration = await asyncio.to_thread(step_costs, engine, config, model.fingerprint, threads, system_info())
    loading.begin(READY)
    draft = None
    if (draft_file := config.draft_file) is not None:
        draft = await asyncio.to_thread(open_draft, draft_file, model, engine, options, cleanup)
    elif config.draft_model is not None:
        log.info("draft model left out: nothing is guessed in the deterministic mode, or with --speculation off")
    return LoadedModel(
        name=name,
        model=model,
        engine=engine,
        plan=plan,
        num_ctx=num_ctx,
        threads=threads,
        calibration=calibration,
        layout=_layout(config, model.fingerprint),
        bandwidth=bandwidth,
        active_bytes=bytes_for_a_token(model.parts),
        draft=draft,
    )


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


# --- The engine loop and what is kept of conversations ---


def _checkpoint_bytes(loaded: LoadedModel) -> int:
    """What the plan has for conversations that are not in the context is for checkpoints too, where there are any."""
    return 0 if loaded.engine.can_remove_part else loaded.plan.checkpoints


def _canonical_chunk(config: WorkerSettings) -> int:
    return CANONICAL_CHUNK if config.deterministic else 0


async def _open_cache(
    loaded: LoadedModel, config: WorkerSettings, history: History, stop: asyncio.Event, cleanup: ExitStack
) -> OffloadCache:
    """RAM's share of the plan, and what an earlier process left."""
    return await open_cache(
        loaded.plan.offload_cache - _checkpoint_bytes(loaded),
        loaded.calibration.layout(loaded.layout),
        loaded.name,
        config,
        history,
        stop,
        cleanup,
        can_remove_part=loaded.engine.can_remove_part,
        canonical_chunk=_canonical_chunk(config),
    )


def _engine_loop(
    loaded: LoadedModel, config: WorkerSettings, cache: OffloadCache, metrics: WorkerMetrics, power: Power
) -> EngineLoop:
    engine, costs = loaded.engine, loaded.calibration.costs()
    scheduler = Scheduler(
        budget=config.step_budget_seconds,
        max_batch_tokens=engine.max_batch_tokens,
        max_batch_outputs=engine.max_batch_outputs,
        min_prefill_tokens=engine.min_prefill_tokens,
        canonical_chunk=_canonical_chunk(config),
        costs=costs,
    )
    slots = Slots(
        engine.num_slots,
        engine.num_ctx,
        can_remove_part=engine.can_remove_part,
        canonical_chunk=_canonical_chunk(config),
        share_across_clients=config.share_prefixes,
        checkpoint_bytes=_checkpoint_bytes(loaded),
    )
    return EngineLoop(
        engine,
        scheduler,
        slots,
        cache,
        threads=loaded.threads,
        on_step=metrics.on_step,
        power=power,
        calibration=loaded.calibration,
        drafting=Drafting.of(engine, costs.rows, is_wanted=config.guesses, draft=loaded.draft),
    )


# --- The worker ---


async def _assemble(
    nc: NatsConnection,
    loaded: LoadedModel,
    config: WorkerSettings,
    version: str,
    history: History,
    renderer: TemplateRenderer,
    cache: OffloadCache,
    assembly: Assembly,
) -> Worker:
    # Whoever names the model gets an answer in the plain form, too; nobody is sent to it who only wants to chat.
    readers = await answer_readers(loaded.model, config.tool_syntax, renderer, holds=not config.free_calls)
    is_plain = loaded.model.template.is_plain
    can = PLAIN_ABILITIES if is_plain else await abilities(renderer, has_thoughts=readers.has_thoughts)
    can += () if loaded.model.vocabulary.infill is None else (discovery.INFILL,)
    options = _options(Identity(loaded.name, loaded.model, config, version), loaded, can)
    cell = loaded.model.kv_shape.quantized(config.kv_type).bytes_per_young_token
    shape = Shape(loaded.active_bytes, cell, loaded.bandwidth.bytes_per_second)
    metrics = WorkerMetrics(tags_of(options), loaded.engine.num_slots, loaded.engine.num_ctx, shape, loaded.threads)
    power = Power()
    loop = _engine_loop(loaded, config, cache, metrics, power)
    grammars = GrammarChecker(loaded.model.vocabulary.matcher_process)
    return assembly(Parts(nc, loop, history, grammars, options, cache, metrics, power, readers, grammars))


def _options(identity: Identity, loaded: LoadedModel, can: tuple[str, ...]) -> WorkerOptions:
    config = identity.config
    return identity.options(
        can,
        _facts(identity, loaded),
        coalesce_seconds=config.coalesce_seconds,
        overflow=config.overflow,
        state_fingerprint=loaded.layout,
        fetch_bytes_per_second=config.fetch_bytes_per_second,
        park_seconds=config.park_seconds,
        **({} if config.board_fd is None else in_a_hurry(has_others=loaded.has_others)),
    )


def _facts(identity: Identity, loaded: LoadedModel) -> dict[str, str]:
    from workers.llama.backend import system_info

    config = identity.config
    others = {
        "active_bytes": str(loaded.active_bytes),
        **thread_facts(loaded.threads, loaded.engine.poll),
        **memory_facts(loaded.bandwidth),
        "num_ctx": str(loaded.num_ctx),
        "flash_attention": str(not config.deterministic).lower(),
        "chat_template": loaded.model.template.origin,
        "draft_model": config.draft_file.name if config.draft_file is not None else "",
        **setting_facts(config),
    }
    return identity.facts(system_info(), others)
