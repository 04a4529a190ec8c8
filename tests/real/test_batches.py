"""Eight conversations at once answer as each does alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from broker.messages import Sampling
from tests.model.conftest import Bench
from tests.model.test_engine import LOGITS_TOLERANCE
from tests.real import GEMMA, QWEN, real_model
from workers.engine.protocol import Span
from workers.llama.context import LlamaModel

TEXTS = (
    "The mast is forty metres high, and the wind",
    "def add(a: int, b: int) -> int:\n\treturn",
    "电池的电量低于百分之二十，所以",
    "👩‍🚒🌧️🔋 means: the",
    "SELECT node, count(*) FROM turns WHERE",
    "البطارية فارغة. يجب",
    "Once there was a radio that",
    'for (const node of nodes) {\n    console.log("',
)
ANSWER = Sampling(max_tokens=3, ignore_eos=True, logprobs=5)


@pytest.fixture(scope="module", params=[QWEN, GEMMA])
def model(request: pytest.FixtureRequest) -> Iterator[LlamaModel]:
    one = LlamaModel(real_model(request.param))
    yield one
    one.close()


@pytest.fixture(scope="module")
def prompts(model: LlamaModel) -> list[list[int]]:
    return [model.vocabulary.tokenize(text, template_spans=[(0, len(text))], add_bos=True) for text in TEXTS]


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square, of logits whose standard deviation is 1. The largest of as many as a real vocabulary has is
    more: 0.43 was seen of Gemma's 262,144, and 0.20 of Qwen's."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


def test_a_batch_of_eight_gives_the_logits_that_each_gives_alone(model: LlamaModel, prompts: list[list[int]]) -> None:
    together, alone = (Bench(model, num_ctx=512) for _ in range(2))
    begun = [Span(slot, 0, tuple(tokens), len(tokens) - 1) for slot, tokens in enumerate(prompts)]
    rows = together.engine.decode(begun)
    batched = [together.engine.logits(row[-1]).copy() for row in rows]
    chosen = [int(logits.argmax()) for logits in batched]
    going_on = [Span(slot, len(tokens), (chosen[slot],), len(tokens)) for slot, tokens in enumerate(prompts)]
    rows = together.engine.decode(going_on)
    followed = [together.engine.logits(row[-1]).copy() for row in rows]
    for slot in range(len(prompts)):
        for found, span in ((batched[slot], begun[slot]), (followed[slot], going_on[slot])):
            (row,) = alone.engine.decode([Span(0, span.start, span.tokens, span.first_output)])
            expected = alone.engine.logits(row[-1])
            assert distance(found, expected) < LOGITS_TOLERANCE
            others = [*batched[:slot], *batched[slot + 1 :], *followed[:slot], *followed[slot + 1 :]]
            assert min(distance(other, expected) for other in others) > 2 * LOGITS_TOLERANCE
        alone.engine.truncate(0, 0)
    together.close()
    alone.close()


def test_in_the_deterministic_mode_eight_at_once_are_told_as_each_is_alone_to_the_bit(
    model: LlamaModel, prompts: list[list[int]]
) -> None:
    together, alone = (Bench(model, deterministic=True, num_ctx=512) for _ in range(2))
    for number, tokens in enumerate(prompts):
        together.submit(str(number), tokens, ANSWER)
        alone.submit(str(number), tokens, ANSWER)
        alone.run()
    together.run()
    for number in range(len(prompts)):
        assert together.tokens(str(number)) == alone.tokens(str(number))
        ours, theirs = ([one.logprobs for one in each.generated(str(number))] for each in (together, alone))
        assert ours == theirs
    together.close()
    alone.close()
