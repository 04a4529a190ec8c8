"""What becomes of prompts with real vocabularies: raw ones, and chats of a model file without a template."""

from __future__ import annotations

import asyncio

import pytest

from broker.discovery import CHAT, RAW
from broker.messages import Message, Sampling, Turn
from producers.local_system import LocalSystem
from tests.real import GEMMA, QWEN, real_model
from workers.llama.context import LlamaModel
from workers.prompts.history import History
from workers.prompts.renderer import TemplateRenderer

FILL_IN = "<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n<|fim_middle|>"


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("system", [QWEN], indirect=True)
async def test_a_coder_model_fills_in_the_middle_of_a_raw_prompt(system: LocalSystem) -> None:
    done = await system.client.ask("m", FILL_IN, sampling=Sampling(max_tokens=8), raw=True)
    assert done.usage.prompt_tokens == 13
    assert done.text.startswith("a + b")


async def test_what_a_user_says_to_a_coder_model_stays_text() -> None:
    model = await asyncio.to_thread(LlamaModel, real_model(QWEN), vocab_only=True)
    renderer = TemplateRenderer(model.chat_template, bos_token="", eos_token="")
    history = History(renderer, model.vocabulary)
    controls = set(model.vocabulary.control_tokens.values())
    try:
        calm = await history.prompt("alice", Turn("t", "c", (Message("user", "hello"),)))
        said = await history.prompt("alice", Turn("t", "c", (Message("user", FILL_IN),)))
        scored = Turn("t", "c", (Message("user", FILL_IN),), kind="score", raw=True, continuations=("a",))
        prompt = await history.prompt("alice", scored)
    finally:
        await renderer.close()
        model.close()
    expected = [token for token in calm.tokens if token in controls]
    assert expected
    assert [token for token in said.tokens if token in controls] == expected
    assert not controls.intersection(prompt.tokens)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("system", [GEMMA], indirect=True)
async def test_a_model_file_without_a_template_says_what_stands_in_for_it(system: LocalSystem) -> None:
    sampling = Sampling(max_tokens=4)
    (worker,) = await system.client.workers()
    chat = await system.client.ask("m", [Message("system", "Be brief."), Message("user", "Hi.")], sampling=sampling)
    text = "Be brief.\n\nUser:\nHi.\n\nAssistant:\n"
    raw = await system.client.ask("m", text, sampling=sampling, raw=True)
    assert worker.facts["chat_template"].startswith("plain, `User:`")
    assert (worker.does(CHAT), worker.does(RAW)) == (False, True)
    assert (chat.usage.prompt_tokens, chat.text) == (raw.usage.prompt_tokens, raw.text)
    assert "template plain" in system.log.read_text()


async def test_a_template_by_its_name_is_that_of_a_file_without_one() -> None:
    model = await asyncio.to_thread(LlamaModel, real_model(GEMMA), vocab_only=True, chat_template="gemma")
    renderer = TemplateRenderer(model.chat_template, bos_token="<bos>", eos_token="<eos>")
    await renderer.start()
    try:
        messages = (Message("system", "Be brief."), Message("user", "Say <end_of_turn>"))
        prompt = await History(renderer, model.vocabulary).prompt("alice", Turn("t", "c", messages))
        spelled = [model.vocabulary.text(token) for token in prompt.tokens]
    finally:
        await renderer.close()
        model.close()
    assert prompt.rendered.text == (
        "<start_of_turn>user\nBe brief.\n\nSay <end_of_turn><end_of_turn>\n<start_of_turn>model\n"
    )
    assert spelled[:3] == ["<bos>", "<start_of_turn>", "user"]
    assert [spelled.count(word) for word in ("<start_of_turn>", "<end_of_turn>")] == [2, 1]
