"""Draft models on a real llama.cpp: what they propose is verified, followed and counted, or refused at the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.messages import Sampling
from tests.model.conftest import Bench
from tests.model.test_engine import LOGITS_TOLERANCE, prompt
from tests.real import QWEN, real_model
from workers.engine.protocol import Span
from workers.llama.context import ContextOptions, LlamaEngine, LlamaModel
from workers.llama.draft import LlamaDraft, difference, load_draft_model, open_draft
from workers.llama.random_model import write_model
from workers.llama.shapes import Shape
from workers.machine.memory import PROCESS_BYTES
from workers.machine.model_plan import draft_size
from workers.model_file import ModelFileError
from workers.models import DEMO
from workers.settings import WorkerSettings

Start = Callable[..., Bench]
FOURS = {1: 1.0, 2: 1.3, 4: 1.5, 8: 2.0, 16: 3.0, 32: 6.0}


@pytest.fixture(scope="module")
def other(model_dir: Path) -> Iterator[LlamaModel]:
    model = LlamaModel(write_model(model_dir / "tiny-other.gguf", "tiny", "Q8_0", seed=1))
    yield model
    model.close()


def hold_likeliest(engine: LlamaEngine, known: list[int], answer: list[int]) -> None:
    """Each token of a greedy answer is the likeliest, computed by itself; of a random model's some are as likely."""
    engine.truncate(0, 0)
    ((row,),) = engine.decode([Span(0, 0, tuple(known), len(known) - 1)])
    for position, token in enumerate(answer, len(known)):
        logits = engine.logits(row)
        assert logits[token] > logits.max() - 2 * LOGITS_TOLERANCE
        ((row,),) = engine.decode([Span(0, position, (token,), position)])


def test_a_model_that_drafts_for_itself_is_nearly_always_right(bench: Start, tiny: LlamaModel) -> None:
    one = bench(draft=tiny, rows=FOURS)
    answer = one.answer(prompt(40), Sampling(max_tokens=120, ignore_eos=True))
    finished = one.finished("answer 0")
    assert finished.num_accepted > 0.9 * finished.num_drafted > 0
    assert finished.num_accepted > 60, "most tokens cost no step"
    assert (one.followed.num_followed, one.followed.num_cells) == (0, 0)
    hold_likeliest(bench().engine, prompt(40), answer)


def test_another_model_is_left_alone_soon(bench: Start, other: LlamaModel) -> None:
    one = bench(draft=other, rows=FOURS)
    one.answer(prompt(40), Sampling(max_tokens=160, ignore_eos=True))
    assert one.draft is not None
    assert 0 < one.draft.num_steps < 30, "it is tried, and then only now and then"
    assert one.finished("answer 0").num_drafted < 8
    hold_likeliest(bench().engine, prompt(40), one.tokens("answer 0"))


def test_turns_that_end_are_cancelled_preempted_and_resumed_are_followed(bench: Start, tiny: LlamaModel) -> None:
    one = bench(draft=tiny, num_slots=3, park_bytes=1 << 24)
    sampling = Sampling(max_tokens=60, ignore_eos=True)
    for index in range(3):
        one.submit(f"batch {index}", prompt(30, index), sampling, is_batch=True)
    for _ in range(6):
        one.step()
    assert one.followed.num_followed == 3
    one.submit("now", prompt(50, 7), sampling)
    one.step()
    assert sum(active.is_preempted for active in one.loop._running.values()) == 1
    one.submit("cancelled", prompt(20, 8), sampling)
    for _ in range(3):
        one.step()
    one.loop.cancel("cancelled")
    one.run()
    known = one.tokens("now")
    one.submit("resumed", prompt(50, 7), sampling, resumed=tuple(known[:20]))
    one.run()
    assert one.followed.num_followed == one.followed.num_cells == 0
    assert one.draft is not None
    assert all(one.draft.state_bytes(slot) == one.draft.state_bytes(0) for slot in range(3)), "all slots are empty"
    engine = bench().engine
    for name, begin, resumed in [
        ("now", prompt(50, 7), []),
        ("resumed", prompt(50, 7), known[:20]),
        *((f"batch {index}", prompt(30, index), []) for index in range(3)),
    ]:
        assert one.finished(name).num_generated == 60
        assert one.finished(name).num_accepted > 20
        hold_likeliest(engine, [*begin, *resumed], one.tokens(name))


def test_more_than_the_draft_has_cells_for_drops_the_oldest_and_nobody_notices(bench: Start, tiny: LlamaModel) -> None:
    one = bench(draft=tiny, num_ctx=512, num_slots=4)
    for index in range(1, 7):
        one.submit(f"{index}", prompt(90, index), Sampling(max_tokens=20, ignore_eos=True))
    one.run()
    engine = bench().engine
    for index in range(1, 7):
        hold_likeliest(engine, prompt(90, index), one.tokens(f"{index}"))
    assert one.loop.snapshot.num_accepted > 20


def test_the_draft_computes_with_the_threads_that_the_model_has(tiny: LlamaModel) -> None:
    options = ContextOptions(num_ctx=256, num_slots=2)
    engine = LlamaEngine(tiny, options)
    draft = LlamaDraft(tiny, options, engine)
    for engine.num_threads, engine.poll in ((1, 0), (2, 0), (2, None), (1, 50)):
        ((mine,),) = engine.decode([Span(0, 0, (1, 40, 41), 2)])
        ((its,),) = draft.decode([Span(1, 0, (1, 40, 41), 2)])
        assert (draft.num_threads, draft.poll) == (engine.num_threads, engine.poll)
        token, probability = draft.likeliest(its)
        assert engine.is_likeliest(mine, token)
        assert probability == pytest.approx(2.718281828 ** engine.logprob(mine, token, 0).logprob, rel=1e-3)
        assert engine.truncate(0, 0)
        assert draft.truncate(1, 0)
    draft.close()
    engine.close()


# --- Which models may ---


def renamed(path: Path, tmp_path: Path) -> Path:
    """The same model, one of whose tokens has another spelling."""
    content, old, new = path.read_bytes(), "▁people".encode(), "▁peoplx".encode()
    assert content.count(old) == 1
    (tmp_path / "renamed.gguf").write_bytes(content.replace(old, new))
    return tmp_path / "renamed.gguf"


def test_a_draft_of_another_vocabulary_is_refused_in_one_sentence(tiny: LlamaModel, tmp_path: Path) -> None:
    for path, reason in (
        (DEMO.path, r"it has another vocabulary: 1,536 tokens, not 1,024"),
        (renamed(tiny.path, tmp_path), r"1 of 1,024 tokens are others \(token \d+ is '▁peoplx', not '▁people'\)"),
    ):
        with pytest.raises(ModelFileError, match=rf"{path.name}: cannot draft for tiny\.gguf: .*{reason}"):
            load_draft_model(path, tiny)


def test_a_draft_with_another_kind_of_vocabulary_is_refused() -> None:
    qwen = LlamaModel(real_model(QWEN), vocab_only=True)
    with pytest.raises(ModelFileError, match="it has another kind of vocabulary"):
        load_draft_model(DEMO.path, qwen)
    qwen.close()


@pytest.mark.parametrize("kind", ["tiny-swa", "tiny-recurrent", "tiny-hybrid"])
def test_what_cannot_forget_a_token_neither_drafts_nor_is_drafted_for(
    kind: str, tiny: LlamaModel, tmp_path: Path
) -> None:
    path = write_model(tmp_path / f"{kind}.gguf", kind, "Q8_0")
    with pytest.raises(ModelFileError, match="cannot take a wrong guess back"):
        load_draft_model(path, tiny)
    target = LlamaModel(path)
    with pytest.raises(ModelFileError, match=r"nothing can be drafted for it: it has .*cannot take a wrong guess back"):
        load_draft_model(tiny.path, target)
    target.close()


def test_tokens_that_fill_a_vocabulary_up_are_no_difference(tiny: LlamaModel, tmp_path: Path) -> None:
    wide = Shape("tiny", *(256, 2, 4, 2, 512), 1024 + 60, 4096)
    large = LlamaModel(write_model(tmp_path / "large.gguf", wide, "Q8_0"))
    assert difference(large, tiny) is None
    assert difference(tiny, large) is None
    for target, draft in ((tiny, large), (large, tiny)):
        one = Bench(target, draft=draft)
        one.answer(prompt(40), Sampling(max_tokens=20, ignore_eos=True))
        assert one.finished("answer 0").num_drafted > 0
        one.close()
    large.close()


# --- What it takes ---


def test_what_a_draft_takes_is_planned_as_it_is_allocated(tmp_path: Path) -> None:
    shape = Shape("wide", 768, 2, 8, 2, 2560, 4096, 4096)
    path = write_model(tmp_path / "wide.gguf", shape, "Q8_0")
    size = draft_size(WorkerSettings(draft_model=str(path)))
    assert size is not None
    assert draft_size(WorkerSettings(draft_model=str(path), deterministic=True)) is None
    model = LlamaModel(path)
    options = ContextOptions(num_ctx=2048, num_slots=8)
    engine = LlamaEngine(model, options)
    draft = LlamaDraft(model, options, engine)
    allocated = sum(bytes_ for name, bytes_ in draft.buffers.items() if not name.endswith("model"))
    vocabulary = model.kv_shape.process_bytes - PROCESS_BYTES
    planned = size.num_bytes(2048, 8, options.num_ubatch, 32) - size.weights - vocabulary
    draft.close()
    engine.close()
    assert size.weights == model.weight_bytes
    model.close()
    assert 0.97 * allocated <= planned <= 1.1 * allocated


def test_a_draft_is_measured_when_it_is_opened_and_leaves_nothing_there(tiny: LlamaModel) -> None:
    options = ContextOptions(num_ctx=256, num_slots=2)
    with ExitStack() as cleanup:
        engine = LlamaEngine(tiny, options)
        cleanup.callback(engine.close)
        context = open_draft(tiny.path, tiny, engine, options, cleanup)
        assert 0 < context.costs.decode(1) < 1
        assert 0 < context.costs.prefill_seconds_per_token < 1
        assert (context.num_followed, context.num_cells, context.seconds) == (0, 0, 0.0)
