"""What holds for every kind of model, whatever it keeps of a sequence; docs/models.md has the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from broker.messages import Sampling
from tests.model.conftest import Bench
from tests.model.test_engine import LOGITS_TOLERANCE, logits_of, prompt
from workers.engine.protocol import Span
from workers.llama.context import LlamaModel
from workers.llama.random_model import write_model

Start = Callable[..., Bench]
KINDS = ("tiny", "tiny-experts", "tiny-swa", "tiny-hybrid", "tiny-recurrent", "tiny-delta", "tiny-mamba2")
ANSWER = Sampling(max_tokens=20, ignore_eos=True, logprobs=5)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, model_dir: Path) -> Iterator[LlamaModel]:
    one = LlamaModel(write_model(model_dir / f"{request.param}.gguf", request.param, "Q8_0"))
    yield one
    one.close()


def test_in_the_deterministic_mode_a_next_turn_is_a_cold_start_to_the_bit(bench: Start, model: LlamaModel) -> None:
    warm = bench(model, deterministic=True, park_bytes=1 << 30)
    known = [*prompt(150), *warm.answer(prompt(150), ANSWER, conversation="c"), *prompt(30, 3)[1:]]
    warm.answer(prompt(90, 5), ANSWER)
    warm.submit("warm", known, ANSWER, conversation="c")
    warm.run()
    cold = bench(model, deterministic=True)
    cold.submit("cold", known, ANSWER)
    cold.run()
    assert len(cold.tokens("cold")) == ANSWER.max_tokens
    # What cannot be cut is computed anew there: it keeps no checkpoints.
    assert (warm.finished("warm").num_cached > 0) == warm.engine.can_remove_part
    assert [event.logprobs for event in warm.generated("warm")] == [event.logprobs for event in cold.generated("cold")]


def test_in_the_deterministic_mode_a_resumed_answer_is_the_same_to_the_bit(bench: Start, model: LlamaModel) -> None:
    whole = bench(model, deterministic=True).answer(prompt(150), ANSWER)
    for num_sent in (1, 17):
        resumed = tuple(whole[:num_sent])
        assert bench(model, deterministic=True).answer(prompt(150), ANSWER, resumed=resumed) == whole[num_sent:]


def test_a_batch_gives_what_each_prompt_gives_alone(bench: Start, model: LlamaModel) -> None:
    prompts = [prompt(40, seed) for seed in range(4)]
    together = bench(model)
    rows = together.engine.decode([Span(slot, 0, tuple(tokens), 39) for slot, tokens in enumerate(prompts)])
    for slot, tokens in enumerate(prompts):
        ours = together.engine.logits(rows[slot][-1]).copy()
        alone = logits_of(bench(model), [[Span(0, 0, tuple(tokens), 39)]])
        assert np.abs(ours - alone).max() < LOGITS_TOLERANCE


def test_a_grammar_is_followed(bench: Start, model: LlamaModel) -> None:
    one = bench(model)
    one.submit("g", prompt(60), Sampling(max_tokens=40), gbnf='root ::= "the " ("radio" | "node") " is on"')
    one.run()
    assert one.text("g") in ("the radio is on", "the node is on")
    assert one.finished("g").reason == "stop"
