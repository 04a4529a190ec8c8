"""A template that drops the thoughts of earlier answers costs what comes after them, and not the conversation."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.messages import Message, Sampling, Turn
from tests.model.conftest import Bench
from tests.support import ROOT
from workers.llama.context import LlamaModel
from workers.llama.random_model import write_model
from workers.prompts.history import History
from workers.prompts.renderer import TemplateRenderer

FOLDER = Path(os.environ.get("TP_TEMPLATES", ROOT / ".cache" / "llama-templates"))
THOUGHTS = "<think>\nThe node sleeps at night, " + "and so does the radio, " * 12 + "I think.\n</think>\n\n"
QUESTIONS = ("Which node was it?", "And why?", "Since when is that so?", "Who knows of it?")


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B"])
@pytest.mark.parametrize("shape", ["tiny-recurrent", "tiny-swa"])
async def test_a_turn_after_thoughts_goes_on_from_where_the_answer_before_began(
    bench: Callable[..., Bench], model_dir: Path, shape: str, name: str
) -> None:
    if not (FOLDER / f"{name}.jinja").is_file():
        pytest.skip(f"no {name}.jinja in {FOLDER}: tools/setup.sh takes it out of llama.cpp's source")
    model = LlamaModel(write_model(model_dir / f"{shape}.gguf", shape, "Q8_0"))
    renderer = TemplateRenderer((FOLDER / f"{name}.jinja").read_text(), bos_token="<s>", eos_token="<|im_end|>")
    await renderer.start()
    try:
        one, history = bench(model), History(renderer, model.vocabulary, has_boundaries=True)
        messages: tuple[Message, ...] = (Message("system", "You watch over the nodes. " * 20),)
        sampling, begun = Sampling(max_tokens=90, ignore_eos=True), 0
        for number, question in enumerate(QUESTIONS):
            turn = Turn("t", "c", (*messages, Message("user", question * 4)))
            prompt = await history.prompt("alice", turn)
            more = {"conversation": "c", "boundaries": prompt.boundaries}
            one.submit(f"{number}", prompt.tokens, sampling, **more)
            one.run()
            assert one.finished(f"{number}").num_cached >= begun
            assert number == 0 or begun > 200
            begun = prompt.boundaries[-1]
            text = f"{THOUGHTS}It was node {number}."
            answer = model.vocabulary.tokenize(text, template_spans=[], add_bos=False)
            history.remember("alice", turn, prompt, [*prompt.tokens, *answer], text)
            messages = (*turn.messages, Message("assistant", text))
        dropped = (await renderer.render((*messages, Message("user", "So?")))).text
        assert "does the radio" not in dropped
    finally:
        await renderer.close()
        one.close()
        model.close()
