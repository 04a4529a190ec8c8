"""What becomes of prompts with real vocabularies: raw ones, and chats of a model file without a template."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.messages import Message, Sampling, Turn
from producers.local_system import local_system
from tests.real import QWEN, real_model
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
