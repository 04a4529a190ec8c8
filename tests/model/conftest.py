"""A real llama.cpp on small models with random weights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from broker.messages import Sampling
from workers.engine.calibration import calibrate
from workers.engine.costs import CostModel
from workers.engine.draft_context import DraftContext
from workers.engine.drafting import Drafting
from workers.engine.events import Event, Finished, Generated, Job, Rejected
from workers.engine.loop import EngineLoop
from workers.engine.proposing import Proposer
from workers.engine.protocol import Span
from workers.engine.row_costs import RowCosts
from workers.engine.scheduler import Scheduler, Step
from workers.engine.slots import Slots
from workers.grammars.checker import GrammarChecker
from workers.grammars.remote_matcher import MatcherProcess
from workers.kv.cache import OffloadCache
from workers.kv.disk import Disk
from workers.llama.context import ContextOptions, KvType, LlamaEngine, LlamaModel
from workers.llama.draft import LlamaDraft
from workers.llama.random_model import write_model
from workers.prompts.renderer import TemplateRenderer

CHUNK = 64


class CountedDraft(LlamaDraft):
    """Counts its steps."""

    num_steps = 0

    def decode(self, spans: list[Span]) -> list[list[int]]:
        self.num_steps += 1
        return super().decode(spans)


class Bench:
    """An engine loop whose thread is the test's: every step is taken by hand."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        deterministic: bool = False,
        num_slots: int = 8,
        budget: float = 60.0,
        num_ctx: int = 4096,
        park_bytes: int = 0,
        kv_type: KvType = "f16",
        disk_folder: Path | None = None,
        checkpoint_bytes: int = 1 << 24,
        drafting: Drafting | None = None,
        draft: LlamaModel | None = None,
        rows: dict[int, float] | None = None,
    ) -> None:
        """With a `draft` model, steps are taken to cost by their `rows`, in seconds, and its own next to nothing."""
        self.model = model
        num_slots = 1 if deterministic else num_slots
        options = ContextOptions(
            num_ctx=num_ctx, num_slots=num_slots, num_threads=1, flash_attention=not deterministic, kv_type=kv_type
        )
        self.engine = LlamaEngine(model, options)
        self.draft: CountedDraft | None = None
        self.guesses: list[tuple[int, tuple[int, ...]]] = []
        """Of each decode step with one sequence: behind so many tokens these were guessed."""
        if draft is not None:
            self.draft = CountedDraft(draft, options, self.engine)
            self.followed = DraftContext(self.draft, CostModel(1e-6, RowCosts({1: 1e-6})), lambda: 0.0)
            proposer = Proposer(self.followed)
            drafting = Drafting(RowCosts(rows or {1: 1.0, 32: 1.0}), 32, proposer, self.engine.vocabulary.is_end)
        chunk = CHUNK if deterministic else 0
        self.scheduler = Scheduler(budget=budget, max_batch_tokens=2048, max_batch_outputs=32, canonical_chunk=chunk)
        can_remove = self.engine.can_remove_part
        self.slots = Slots(
            num_slots,
            self.engine.num_ctx,
            can_remove_part=can_remove,
            canonical_chunk=chunk,
            checkpoint_bytes=checkpoint_bytes,
        )
        self.disk = None
        if disk_folder is not None:
            self.disk = Disk(disk_folder, 1 << 30, calibrate(self.engine).layout("fingerprint"))
            self.disk.open()
        self.cache = OffloadCache(park_bytes, self.disk, can_remove_part=can_remove, canonical_chunk=chunk)
        self.num_computed = 0
        """Tokens that went through the model."""
        self.loop = EngineLoop(
            self.engine, self.scheduler, self.slots, self.cache, on_step=self._count, drafting=drafting
        )
        self.events: dict[str, list[Event]] = {}

    def close(self) -> None:
        self.cache.close()
        if self.disk is not None:
            self.disk.close()
        if self.draft is not None:
            self.draft.close()
        self.engine.close()

    def _count(self, step: Step, seconds: float) -> None:
        self.num_computed += step.num_tokens
        if step.is_decode and len(step.spans) == 1:
            self.guesses.append((step.spans[0].start + 1, step.spans[0].tokens[1:]))

    def _take(self, events: list[Event]) -> None:
        for event in events:
            assert not hasattr(event, "reason") or isinstance(event, Finished), event
            self.events.setdefault(getattr(event, "job", ""), []).append(event)

    def submit(
        self, name: str, prompt: list[int], sampling: Sampling = Sampling(max_tokens=16), **more: object
    ) -> None:
        fields = {"client": "alice", "conversation": name, "max_tokens": sampling.max_tokens} | more
        self.loop.submit(Job(id=name, prompt=prompt, sampling=sampling, **fields))  # type: ignore[arg-type]

    def step(self) -> None:
        if self.loop.take_orders():
            self._take(self.loop.run_round())

    def run(self) -> None:
        self.step()
        while self.loop.has_work:
            self.step()

    def has_ended(self, name: str) -> bool:
        return isinstance(self.events.get(name, [None])[-1], Finished | Rejected)

    def finished(self, name: str) -> Finished:
        end = self.events[name][-1]
        assert isinstance(end, Finished), end
        return end

    def rejected(self, name: str) -> Rejected:
        end = self.events[name][-1]
        assert isinstance(end, Rejected), end
        return end

    def generated(self, name: str) -> list[Generated]:
        return [event for event in self.events[name] if isinstance(event, Generated)]

    def text(self, name: str) -> str:
        return "".join(event.text for event in self.generated(name))

    def tokens(self, name: str) -> list[int]:
        return [token for event in self.generated(name) for token in event.tokens]

    def answer(self, prompt: list[int], sampling: Sampling = Sampling(max_tokens=16), **more: object) -> list[int]:
        """One answer on its own."""
        name = f"answer {len(self.events)}"
        self.submit(name, prompt, sampling, **more)
        self.run()
        return self.tokens(name)


@pytest.fixture(scope="session")
def tiny_path(model_dir: Path) -> Path:
    return write_model(model_dir / "tiny.gguf", "tiny", "Q8_0")


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Iterator[LlamaModel]:
    model = LlamaModel(tiny_path)
    yield model
    model.close()


@pytest.fixture(scope="session")
def sliding(model_dir: Path) -> Iterator[LlamaModel]:
    model = LlamaModel(write_model(model_dir / "tiny-swa.gguf", "tiny-swa", "Q8_0"))
    yield model
    model.close()


@pytest.fixture
def bench(tiny: LlamaModel) -> Iterator[Callable[..., Bench]]:
    opened: list[Bench] = []

    def start(model: LlamaModel = tiny, **options: object) -> Bench:
        opened.append(Bench(model, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
async def renderer(tiny: LlamaModel) -> AsyncIterator[TemplateRenderer]:
    renderer = TemplateRenderer(tiny.chat_template, bos_token="<s>", eos_token="<|im_end|>")
    await renderer.start()
    yield renderer
    await renderer.close()


@pytest.fixture
def matcher_process(tiny: LlamaModel) -> Iterator[MatcherProcess]:
    model = LlamaModel(tiny.path, vocab_only=True)
    yield model.vocabulary.matcher_process
    model.close()


@pytest.fixture
def grammars(matcher_process: MatcherProcess) -> GrammarChecker:
    return GrammarChecker(matcher_process)
