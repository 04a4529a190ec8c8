"""The next turn's prompt has the same tokens whether the worker remembers the conversation or not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from broker.messages import Message, Turn
from tests.real import GEMMA, QWEN, real_model
from workers.engine.detokenizer import Detokenizer
from workers.llama.context import LlamaModel
from workers.models import DEMO
from workers.prompts.history import History
from workers.prompts.renderer import TemplateRenderer

ANSWER = (
    "Check the fan of node 7 first; if the temperature stays above 70 °C, move its turns to another board.\n\n"
    "Observation: the alarm came twice — once at noon, once at 3 o'clock.\n"
    '```json\n{"node": 7, "naïve": "日本語 🎉"}\n```\n'
)
TURNS = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message.role }}\n"
    "{{ message.content }}<end_of_turn>\n{% endfor %}{{ '<start_of_turn>assistant\\n' }}"
)
"""Of a base model's file, which has no template."""


async def assert_the_same(path: Path) -> None:
    model = LlamaModel(path)
    vocabulary = model.vocabulary
    bos, eos = vocabulary.text(vocabulary.bos), vocabulary.text(vocabulary.eos)
    renderer = TemplateRenderer(model.chat_template or TURNS, bos_token=bos, eos_token=eos)
    await renderer.start()
    try:
        rng = random.Random(11)
        answer = vocabulary.tokenize(ANSWER, template_spans=[], add_bos=False)
        for index in range(40):
            at = rng.randrange(len(ANSWER) - 9)
            stop = (ANSWER[at : at + rng.randrange(1, 9)],) if index % 2 else ()
            generated = answer if stop else answer[: rng.randrange(1, len(answer))]
            await assert_one_the_same(renderer, model, generated, stop)
    finally:
        await renderer.close()
        model.close()


async def assert_one_the_same(
    renderer: TemplateRenderer, model: LlamaModel, generated: list[int], stop: tuple[str, ...]
) -> None:
    detokenizer, text, tokens = Detokenizer(stop), "", []
    for token in generated:
        text += detokenizer.add(model.vocabulary.piece(token))
        tokens.append(token)
        if detokenizer.stopped:
            break
    text += detokenizer.finish()
    if text != text.strip():
        return  # which a template may trim of what it sees for the first time
    history, question = History(renderer, model.vocabulary), Message("user", "What should I do?")
    first = Turn("t", "c", (question,))
    prompt = await history.prompt("alice", first)
    history.remember("alice", first, prompt, [*prompt.tokens, *tokens], text)
    second = Turn("u", "c", (question, Message("assistant", text), Message("user", "Why?")))
    remembered = await history.prompt("alice", second)
    assert remembered.num_known > 0
    assert remembered.tokens == (await History(renderer, model.vocabulary).prompt("alice", second)).tokens, (text, stop)


async def test_after_stop_texts_and_cut_answers_of_a_model_of_random_weights(tiny_path: Path) -> None:
    await assert_the_same(tiny_path)


async def test_after_stop_texts_and_cut_answers_of_the_shipped_model() -> None:
    await assert_the_same(DEMO.path)


@pytest.mark.parametrize("name", [QWEN, GEMMA])
async def test_after_stop_texts_and_cut_answers_of_a_real_model(name: str) -> None:
    await assert_the_same(real_model(name))
