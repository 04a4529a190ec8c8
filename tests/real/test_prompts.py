"""What becomes of prompts with real vocabularies: raw ones, and chats of a model file without a template."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.discovery import CHAT, RAW
from broker.messages import Message, Sampling, Turn
from producers.local_system import local_system
from tests.real import GEMMA, QWEN, real_model
from tests.support import ROOT
from workers.llama.context import LlamaModel
from workers.prompts.history import History
from workers.prompts.renderer import TemplateRenderer

FILL_IN = "<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n<|fim_middle|>"


async def test_a_coder_model_fills_in_the_middle_of_a_raw_prompt(tmp_path: Path) -> None:
    file = real_model(QWEN)
    flags = ["--threads", "1", "--num-ctx", "1024"]
    async with local_system(ROOT / "turnpike", tmp_path, model="m", model_file=file, flags=flags) as found:
        await found.until_served()
        done = await found.client.ask("m", FILL_IN, sampling=Sampling(max_tokens=8), raw=True)
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


async def test_a_model_file_without_a_template_says_what_stands_in_for_it(tmp_path: Path) -> None:
    file = real_model(GEMMA)
    flags = ["--threads", "1", "--num-ctx", "1024"]
    sampling = Sampling(max_tokens=4)
    async with local_system(ROOT / "turnpike", tmp_path, model="m", model_file=file, flags=flags) as found:
        await found.until_served()
        (worker,) = await found.client.workers()
        chat = await found.client.ask("m", [Message("system", "Be brief."), Message("user", "Hi.")], sampling=sampling)
        text = "Be brief.\n\nUser:\nHi.\n\nAssistant:\n"
        raw = await found.client.ask("m", text, sampling=sampling, raw=True)
    assert worker.facts["chat_template"].startswith("plain, `User:`")
    assert (worker.does(CHAT), worker.does(RAW)) == (False, True)
    assert (chat.usage.prompt_tokens, chat.text) == (raw.usage.prompt_tokens, raw.text)
    assert "template plain" in (tmp_path / "worker.log").read_text()


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
