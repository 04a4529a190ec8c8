"""Real models end their answers, and nobody is shown an end token: each vocabulary's are in test_tokens.py."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import openai
import pytest

from broker.client import Client
from broker.messages import Done, Sampling
from producers.local_system import LocalSystem
from tests.real import GEMMA, QWEN, real_model
from tests.real.serving import openai_before
from workers.llama.context import LlamaModel

SAID = "one two three"
ENDS_WITH = {QWEN: ("<|im_end|>", "</s>"), GEMMA: ()}
"""Those that the model itself goes on with where a prompt repeats them; a base model knows none of a chat."""
LEAST = {QWEN: 5, GEMMA: 2}
"""End tokens that a vocabulary has, at least."""
ENDING = 'root ::= " three" "\u0378"*'
"""Where all that may follow but an end is a letter that there is not, a model ends."""
SAMPLINGS = (
    Sampling(12),
    Sampling(12, logprobs=3),
    Sampling(12, grammar="root ::= [a-z ]*"),
    Sampling(12, temperature=1.0, top_p=0.5, seed=5),
    Sampling(12, stop=("four", "three two")),
)


def spellings(name: str) -> set[str]:
    """Of the end tokens that llama.cpp finds in that model's vocabulary."""
    model = LlamaModel(real_model(name), vocab_only=True)
    try:
        return {model.vocabulary.text(token) for token in model.vocabulary.end_tokens}
    finally:
        model.close()


def ended_before(end: str) -> str:
    """A raw prompt in which the same is said and ended, over and over."""
    return f"{SAID}{end}\n" * 8 + "one two"


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("system", [QWEN, GEMMA], indirect=True)
async def test_a_model_ends_its_answers_and_shows_no_end_token(
    system: LocalSystem, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["system"]
    ends = await asyncio.to_thread(spellings, name)
    assert len(ends) >= LEAST[name]
    async with openai_before(system) as client:
        for end in ends:
            done = await system.client.ask("m", ended_before(end), sampling=Sampling(6), raw=True)
            assert done.text.startswith(" three")
            assert not any(other in done.text for other in ends), done.text
        for end, sampling in itertools.product(ENDS_WITH[name], SAMPLINGS):
            done = await system.client.ask("m", ended_before(end), sampling=sampling, raw=True)
            assert_ended(done)
        forced = Sampling(12, grammar=ENDING, logprobs=2)
        assert_ended(await system.client.ask("m", ended_before(min(ends)), sampling=forced, raw=True))
        await assert_told_by_the_gateway(client, min(ends))
        await assert_chats_show_none(system.client, ends)


def assert_ended(done: Done) -> None:
    assert (done.text, done.finish_reason) == (" three", "stop")
    assert done.usage.completion_tokens == len(done.tokens) == 1


async def assert_told_by_the_gateway(client: openai.AsyncOpenAI, end: str) -> None:
    more: Any = {"model": "m", "prompt": ended_before(end), "max_tokens": 12, "temperature": 0, "logprobs": 2}
    more["extra_body"] = {"grammar": ENDING}
    whole = await client.completions.create(**more)
    (choice,) = whole.choices
    assert (choice.text, choice.finish_reason) == (" three", "stop")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == [" three"]
    assert choice.logprobs.text_offset == [0]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 1
    stream = await client.completions.create(stream=True, **more)
    texts, reasons = [], []
    async for event in stream:
        texts.append(event.choices[0].text)
        reasons.append(event.choices[0].finish_reason)
    assert ("".join(texts), reasons[-1]) == (" three", "stop")


async def assert_chats_show_none(client: Client, ends: set[str]) -> None:
    async def said(sampling: Sampling) -> Done:
        done: Done = await client.ask("m", "Say just: OK", sampling=sampling)
        assert not any(end in done.text for end in ends), done.text
        return done

    await said(Sampling(24))
    await said(Sampling(24, temperature=1.0, logprobs=2))
    endless = await said(Sampling(24, ignore_eos=True))
    assert (endless.finish_reason, endless.usage.completion_tokens) == ("length", 24)
    by_grammar = await said(Sampling(24, grammar='root ::= "OK" | "no"'))
    assert by_grammar.text in ("OK", "no")
    assert by_grammar.finish_reason == "stop"
