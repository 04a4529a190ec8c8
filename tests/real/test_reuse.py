"""What a real model has said is never computed a second time when its conversation goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.messages import Done, Sampling
from tests.real import GEMMA, QWEN, real_model
from tests.real.fleet import Talk, Told, fleet, read
from tests.real.test_deterministic import SYSTEM
from workers.engine.checkpoints import BEFORE_END, MIN_DISTANCE
from workers.llama.context import LlamaModel
from workers.prompts.spoken import num_spoken

CANCELLED = Sampling(max_tokens=300, ignore_eos=True)
QUESTIONS = (
    ("Say hello in Chinese, with three emoji, one of them of a family.", Sampling(max_tokens=24)),
    ("A Python function with tabs that adds two numbers.", Sampling(max_tokens=14)),
    ("用中文解释。", Sampling(max_tokens=11)),
    ("Count from one to nine, a number a line.", Sampling(max_tokens=40, stop=("4",))),
    ("قل ذلك بالعربية", Sampling(max_tokens=9)),
    ("Write a long story.", CANCELLED),
    ("Ten emoji, with families and flags 🇨🇭.", Sampling(max_tokens=13, temperature=1.0, seed=5)),
    ("```js\n\tfor (;;) {", Sampling(max_tokens=12, stop=("\n\t}",))),
    ("日本語で言って", Sampling(max_tokens=10, temperature=1.2, seed=6)),
    ("Thanks!", Sampling(max_tokens=8)),
)


async def answered(talk: Talk, question: str, sampling: Sampling) -> Told:
    """The turn's answer; of one that is to be cancelled what came until then."""
    if sampling is not CANCELLED:
        return await talk.next(question, sampling)
    answer = talk.ask(question, sampling)
    async for _ in answer:
        if answer.num_tokens > 4:
            await answer.cancel()
            break
    told = await read(answer)
    assert told.done.finish_reason == "cancelled"
    talk.told(told.done)
    return told


def num_computed(model: LlamaModel, done: Done) -> int:
    """How many tokens of a turn were computed and stand in its conversation's next prompt."""
    num_tokens, _ = num_spoken(model.vocabulary, done.tokens, done.text.encode())
    # What was chosen last was not computed, unless another token was to be chosen after it.
    was_last = num_tokens == len(done.tokens) and done.finish_reason != "stop"
    return done.usage.prompt_tokens + num_tokens - was_last


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "begin"),
    [(QWEN, ""), (GEMMA, SYSTEM * 4)],
    ids=["qwen", "gemma in the plain form, behind its window"],
)
async def test_ten_turns_compute_nothing_twice(name: str, begin: str, tmp_path: Path) -> None:
    file = real_model(name)
    model = LlamaModel(file, vocab_only=True)
    distance = 0 if name == QWEN else BEFORE_END + MIN_DISTANCE
    async with fleet(tmp_path, file, "--num-ctx", "4096", "--num-slots", "2") as workers:
        await workers.start("a")
        talk, known = Talk(workers.client, "c"), 0
        for number, (question, sampling) in enumerate(QUESTIONS):
            told = await answered(talk, begin * (number == 0) + question, sampling)
            done = told.done
            assert done.usage.cached_tokens >= known - distance
            assert done.usage.cached_tokens == known or distance
            known = num_computed(model, done)
    model.close()
