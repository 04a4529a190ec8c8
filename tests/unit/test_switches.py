"""Whether a model is to think, in each template's own words. On the templates of llama.cpp's source."""

from __future__ import annotations

from typing import Any

import pytest

from broker.messages import Message, Sampling, Turn
from broker.messages.turns import Thinking
from tests.unit.test_template_tools import TEMPLATES
from tests.unit.test_templates import DAY
from workers.calls import syntax_of
from workers.prompts.besides import variables
from workers.prompts.given import messages_for
from workers.prompts.switches import switched
from workers.prompts.template import TemplateFailed, render

CHAT = (Message("user", "Is it dark?"),)
WITHOUT = {
    "Apriel-1.6-15b-Thinker-fixed": "opens the thought always",
    "Kimi-K2-Instruct": "leaves it to the model",
    "Kimi-K2-Thinking": "leaves it to the model",
    "LFM2.5-8B-A1B": "leaves it to the model",
    "LFM2.5-Instruct": "leaves it to the model",
    "MiMo-VL": "leaves it to the model",
    "MiniMax-M1": "leaves it to the model",
    "MiniMax-M2": "opens the thought always",
    "NVIDIA-Nemotron-Nano-v2": "looks for /no_think in what the user says",
    "StepFun3.5-Flash": "opens the thought always",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "opens the thought always",
    "llama-cpp-deepseek-r1": "opens the thought always",
    "mistralai-Ministral-3-14B-Reasoning-2512": "leaves it to its own system message",
    "moonshotai-Kimi-K2": "leaves it to the model",
    "unsloth-Apriel-1.5": "leaves it to its own system message",
}
"""Of models that think, templates that cannot be told: there a thought is ended as soon as it begins."""


THREE = ("MiniMax-M3", "llama-cpp-rwkv-world", "openbmb-MiniCPM5-1B")
"""That leave it to the model where they are not told."""


def prompt_of(name: str, thinking: Thinking | None, given: dict[str, Any] | None = None) -> str:
    template = TEMPLATES[name]
    turn = Turn("t", "c", CHAT, Sampling(thinking=thinking), chat_template_kwargs=given)
    kwargs = switched(template, variables(turn) or {})
    found = render(template, messages_for(CHAT, "object"), bos_token="", eos_token="", date=DAY, kwargs=kwargs)
    return str(found["text"])


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_each_template_of_a_model_that_thinks_hears_whether_it_is_to(name: str) -> None:
    try:
        plain = prompt_of(name, None)
    except TemplateFailed:
        pytest.skip("refuses a plain chat")
    off, on, some = prompt_of(name, "off"), prompt_of(name, "on"), prompt_of(name, 600)
    assert plain in (on, off) or name in THREE
    if syntax_of(TEMPLATES[name]).thoughts is not None and name not in WITHOUT:
        assert off != on
        assert off != some
    if name in WITHOUT:
        assert off == on == some


@pytest.mark.skipif(not TEMPLATES, reason="the templates of llama.cpp's source are not here")
def test_what_a_client_gives_itself_stays() -> None:
    assert "Reasoning: low" in prompt_of("openai-gpt-oss-120b", "off")
    assert "Reasoning: high" in prompt_of("openai-gpt-oss-120b", "off", {"reasoning_effort": "high"})
    assert "Reasoning: medium" in prompt_of("openai-gpt-oss-120b", "on")
    assert " 600" in prompt_of("ByteDance-Seed-OSS", 600)


@pytest.mark.parametrize(
    ("template", "is_on"),
    [
        ("<think>{% if not enable_thinking %}</think>{% endif %}", True),
        ("<think>{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}", None),
        ("{% set enable_thinking = enable_thinking | default(false) %}{% if not enable_thinking %}x{% endif %}", None),
        ("{% if enable_thinking %}<think>{% endif %}", None),
    ],
)
def test_where_nothing_is_said_no_thought_is_ended_for_that(template: str, is_on: bool | None) -> None:
    assert switched(template, {}).get("enable_thinking") is is_on
    assert switched(template, {"enable_thinking": False}) == {"enable_thinking": False}


@pytest.mark.skipif(not TEMPLATES, reason="the templates of llama.cpp's source are not here")
@pytest.mark.parametrize("name", ["deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "Qwen-QwQ-32B"])
def test_a_model_that_thinks_does_so_where_nothing_is_said(name: str) -> None:
    assert prompt_of(name, None).endswith("<think>\n")
    assert prompt_of(name, "off").endswith("</think>")
