"""The deterministic mode to the bit: what another process, or another worker, had begun changes no token of an answer
and no log-probability."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.messages import Sampling, TokenLogprob
from tests.model.conftest import Bench, bench, tiny, tiny_path
from tests.model.test_engine import prompt
from tests.model.test_reuse import filler, model
from tests.real import GEMMA, QWEN, real_model
from tests.real.fleet import Talk, fleet, read
from tests.support import eventually
from workers.kv.index import Key, packed
from workers.llama.context import LlamaModel
from workers.llama.random_model import write_model

Start = Callable[..., Bench]
DRAWN = Sampling(max_tokens=24, ignore_eos=True, logprobs=5, temperature=0.9, top_k=40, seed=7)
"""Its log-probabilities tell of all logits, its draws of the seed."""
Answered = list[tuple[int, TokenLogprob]]
"""An answer's tokens with all that was told of each."""
__all__ = ["bench", "model", "tiny", "tiny_path"]

# --- The engine, of every kind of memory; tests/model/test_kinds.py has what is told again and gone on with ---


def told(one: Bench, name: str) -> Answered:
    events = one.generated(name)
    return [pair for event in events for pair in zip(event.tokens, event.logprobs, strict=True)]


def run_first(one: Bench) -> list[int]:
    """A first turn, and its tokens."""
    one.submit("first", prompt(200), DRAWN, conversation="c")
    one.run()
    return list(one.finished("first").tokens)


@pytest.fixture(scope="module")
def second(model: LlamaModel) -> tuple[list[int], Answered]:
    """A second turn's prompt, and its answer by a worker that has seen nothing else."""
    one, calm = (Bench(model, deterministic=True) for _ in range(2))
    tokens = [*run_first(one), *prompt(60, 3)[1:]]
    calm.submit("second", tokens, DRAWN)
    calm.run()
    one.close()
    calm.close()
    return tokens, told(calm, "second")


def test_a_worker_that_was_started_anew_answers_to_the_bit(
    bench: Start, model: LlamaModel, second: tuple[list[int], Answered], tmp_path: Path
) -> None:
    one = bench(model, deterministic=True, park_bytes=1 << 30, disk_folder=tmp_path)
    run_first(one)
    one.cache.flush(60.0, one.loop.idle_states())
    one.close()
    other = bench(model, deterministic=True, park_bytes=1 << 30, disk_folder=tmp_path)
    filler(other, 0, length=700)
    found = other.cache.find_on_disk(packed(second[0]), "alice", 0)
    assert found is None or other.cache.load(found)
    other.submit("second", second[0], DRAWN, conversation="c")
    other.run()
    assert told(other, "second") == second[1]
    assert other.finished("second").cached_in == ("disk" if other.engine.can_remove_part else None)


def test_a_worker_that_fetched_a_state_answers_to_the_bit(
    bench: Start, model: LlamaModel, second: tuple[list[int], Answered]
) -> None:
    giver, taker = (bench(model, deterministic=True, park_bytes=1 << 30) for _ in range(2))
    run_first(giver)
    exported = giver.loop.export(Key("alice", "c"))
    giver.step()
    given = exported.result(timeout=5)
    assert given is not None
    filler(taker, 0, length=700)
    taker.cache.offload(given[0], bytes(given[1]), "peer")
    taker.submit("second", second[0], DRAWN, conversation="c")
    taker.run()
    assert told(taker, "second") == second[1]
    assert taker.finished("second").cached_in == ("peer" if taker.engine.can_remove_part else None)


# --- Workers on a queue ---

SYSTEM = (
    "You help the people of a mesh of radio nodes. Each node is a small computer with a battery, a panel and a mast. "
    "Say what they should do, in a sentence or two. A node that is too hot has to be shaded; a node that is silent may "
    "have no power, no antenna or no neighbour; a battery below a fifth of its charge wants sun before it wants work. "
    "Never send anybody up a mast in wind, in ice or in the dark. If you do not know, say so, and say who may know. "
)
QUESTIONS = (
    SYSTEM + "Node 7 is silent.",
    "Was heißt das auf Chinesisch, mit 🌞?",
    "\tfor node in nodes:\n\t\tprint(node)",
)
TEMPLATE: dict[str, tuple[str, ...]] = {QWEN: (), GEMMA: ("--chat-template", "gemma")}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [QWEN, GEMMA])
async def test_a_conversation_that_is_restarted_fetched_and_resumed_is_told_as_in_peace(
    name: str, tmp_path: Path
) -> None:
    flags = ("--deterministic", "--num-ctx", "4096", "--coalesce-seconds", "0", "--disk-bytes", str(1 << 30))
    max_tokens = 12
    sampling = Sampling(max_tokens=max_tokens, ignore_eos=True, logprobs=3, temperature=0.8, top_k=20, seed=3)
    async with fleet(tmp_path, real_model(name), *flags, *TEMPLATE[name]) as workers:
        a_disk, b_disk = (("--kv-dir", str(tmp_path / one)) for one in "ab")
        await workers.start("a", *a_disk)
        calm, talk = Talk(workers.client, "calm"), Talk(workers.client, "talk")
        expected = [await calm.next(question, sampling) for question in QUESTIONS]
        found = [await talk.next(QUESTIONS[0], sampling)]
        await workers.stop("a")
        await workers.start("a", *a_disk)
        found.append(await talk.next(QUESTIONS[1], sampling))
        await workers.start("b", *b_disk)
        await workers.keep_busy("a")
        answer = talk.ask(QUESTIONS[2], sampling)
        reader = asyncio.create_task(read(answer))
        await eventually(lambda: answer.num_tokens > 2)
        assert answer.started is not None
        assert answer.started.worker == "b"
        await workers.kill("b")
        assert answer.num_tokens < max_tokens
        await workers.let_go()
        found.append(await reader)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.done.text, ours.tokens, ours.logprobs) == (theirs.done.text, theirs.tokens, theirs.logprobs)
    assert [one.done.worker for one in found] == ["a", "a", "a"]


@pytest.mark.timeout(120)
async def test_a_worker_that_knows_nothing_of_a_conversation_makes_the_same_prompt_of_it(
    tmp_path: Path, model_dir: Path
) -> None:
    """Whose answers' texts give other tokens than were generated: those of random weights do."""
    file = write_model(model_dir / "tiny.gguf", "tiny", "Q8_0")
    sampling = Sampling(max_tokens=40, ignore_eos=True, logprobs=3)
    async with fleet(tmp_path, file, "--deterministic", "--num-ctx", "1024") as workers:
        await workers.start("a")
        calm = Talk(workers.client, "calm")
        expected = [await calm.next(question, sampling) for question in QUESTIONS[1:]]
        await workers.kill("a")
        await workers.start("b")
        talk = Talk(workers.client, "talk")
        talk.messages = calm.messages[:2]
        found = await talk.next(QUESTIONS[2], sampling)
    assert found.done.usage.cached_tokens == 0
    assert (found.tokens, found.logprobs) == (expected[1].tokens, expected[1].logprobs)
