"""Tools, calls, results and thoughts in a prompt: what plain Jinja makes of them, and none of a client's words a
control word. On the templates of llama.cpp's source, where the set-up or TP_TEMPLATES has left them."""

from __future__ import annotations

import html
import json
from typing import Any

import jinja2
import pytest

from broker.errors import TurnRejected
from broker.messages import Message, Tool, ToolCall
from tests.unit.test_templates import DAY, OTHERS, plain_jinja, template_text, words_of
from workers.calls import syntax_of
from workers.calls.writing import writer
from workers.prompts.given import messages_for, tools_for
from workers.prompts.renderer import TemplateRenderer
from workers.prompts.template import TemplateFailed, render
from workers.prompts.tools_form import ToolsForm, tools_form

GENERIC = {
    "HuggingFaceTB-SmolLM3-3B": "Unsloth's edition, which lost the tools",
    "Kimi-K2-Instruct": "appends to a list, which the sandbox of transformers refuses",
    "Kimi-K2-Thinking": "appends to a list",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "calls, but no list of tools",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "calls, but no list of tools",
    "deepseek-ai-DeepSeek-V3.1": "calls, but no list of tools",
    "google-gemma-2-2b-it": "no tools",
    "llama-cpp-deepseek-r1": "calls, but no list of tools",
    "llama-cpp-rwkv-world": "no tools",
    "microsoft-Phi-3.5-mini-instruct": "no tools",
}
CONTENT = {"LFM2-8B-A1B", "LFM2.5-Instruct", "ibm-granite-granite-3.3-2B-Instruct"}
TEXT = {"meetkai-functionary-medium-v3.2"}
NAMES = [path.stem for path in OTHERS]
TEMPLATES = {path.stem: path.read_text() for path in OTHERS}


def tools(word: str = "lamp") -> tuple[Tool, ...]:
    room = {"type": "string", "description": f"Which {word}", "enum": ["kitchen", f"hall {word}"]}
    schema = {"type": "object", "properties": {"room": room, "on": {"type": "boolean", "description": "Whether"}}}
    return (
        Tool("switch", f"Switches a {word}", schema | {"required": ["room", "on"]}),
        Tool("read_sensor", f"Reads «{word}»", {"type": "object", "properties": {}, "required": []}),
    )


def call(number: int, word: str = "läuft") -> ToolCall:
    return ToolCall(f"abcdefgh{number}", "switch", json.dumps({"room": word, "on": True}, ensure_ascii=False))


def result(number: int, word: str = "done") -> Message:
    return Message("tool", f'{{"state": "{word}"}}', tool_call_id=f"abcdefgh{number}")


def rounds(word: str = "word") -> list[tuple[Message, ...]]:
    """A question; a call and its result; two calls in one answer, with thoughts, and what came of them."""
    question, thoughts = Message("user", f"Light, {word}!"), f"It is {word} here."
    one = (question, Message("assistant", "", (call(1, word),)), result(1, word))
    both = (
        *one,
        Message("assistant", f"It is on, {word}."),
        Message("user", "And the others?"),
        Message("assistant", f"I see, {word}.", (call(2, word), call(3, word)), reasoning=thoughts),
        result(2, word),
        result(3, word),
    )
    return [(question,), one, both, (Message("system", f"Be brief, {word}."), *both)]


def _functions(offered: list[dict[str, Any]]) -> str:
    """As the card of Firefunction says it."""
    return json.dumps([one["function"] for one in offered], indent=4, ensure_ascii=False) if offered else ""


async def form_of(template: str) -> ToolsForm:
    async def text(messages: tuple[Message, ...], offered: tuple[Tool, ...], form: ToolsForm) -> str:
        try:
            return str(rendered(template, messages, offered, form)["text"])
        except TemplateFailed as error:
            raise TurnRejected("invalid_template", str(error)) from None

    return await tools_form(text)


def rendered(
    template: str, messages: tuple[Message, ...], offered: tuple[Tool, ...], form: ToolsForm
) -> dict[str, Any]:
    return render(
        template,
        messages_for(messages, form),
        bos_token="<s>",
        eos_token="</s>",
        date=DAY,
        system_role="nowhere" if "System role not supported" in template else "anywhere",
        tools=tools_for(offered),
        takes_tools=form != "generic",
    )


@pytest.mark.parametrize("name", NAMES)
async def test_a_template_is_found_to_take_tools_as_it_does(name: str) -> None:
    wanted = "generic" if name in GENERIC else "content" if name in CONTENT else "text" if name in TEXT else "object"
    assert await form_of(TEMPLATES[name]) == wanted


@pytest.mark.parametrize("name", [name for name in NAMES if name not in GENERIC and name not in CONTENT])
async def test_a_prompt_with_tools_is_what_plain_jinja_makes_of_it(name: str) -> None:
    template = TEMPLATES[name]
    form = await form_of(template)
    num_equal = 0
    for messages in rounds():
        for offered in (tools(), ()):
            try:
                wanted = plain_jinja(template).render(
                    messages=messages_for(messages, form),
                    tools=tools_for(offered) or None,
                    functions=_functions(tools_for(offered)),
                    add_generation_prompt=True,
                    bos_token="<s>",
                    eos_token="</s>",
                )
            except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError):
                continue
            if "|safe" in template:
                wanted = html.unescape(wanted)  # Jinja escapes what is added to a safe text; here nothing is HTML
            assert rendered(template, messages, offered, form)["text"] == wanted
            num_equal += 1
    assert num_equal >= 2


@pytest.mark.parametrize("name", NAMES)
async def test_no_word_of_a_tool_a_call_or_a_result_is_the_templates(name: str) -> None:
    template = TEMPLATES[name]
    form = await form_of(template)
    canary = "\u0298"
    words = words_of(template)
    said, calm_said = canary + canary.join(words) + canary, canary + canary.join("word" for _ in words) + canary
    num_rendered = 0
    for hostile, calm in zip(rounds(said), rounds(calm_said), strict=True):
        try:
            found = rendered(template, hostile, tools(said), form)
            harmless = rendered(template, calm, tools(calm_said), form)
        except TemplateFailed:
            continue
        num_rendered += 1
        own = template_text((found["text"], found["contents"]))
        calm_own = template_text((harmless["text"], harmless["contents"]))
        assert canary not in own
        for word in set(words) - {"<think>", "</think>"}:
            assert own.count(word) == calm_own.count(word)
    assert num_rendered


PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


async def test_where_a_template_knows_no_tools_they_are_told_all_the_same() -> None:
    renderer = TemplateRenderer(PLAIN, bos_token="", eos_token="")
    await renderer.start()
    prompt = (await renderer.render(rounds()[3], tools=tools())).text
    await renderer.close()
    assert renderer.tools_form == "generic"
    system, rest = prompt.split("<|im_end|>", 1)
    assert '{"name": "switch", "description": "Switches a lamp"' in system
    assert system.startswith("<|im_start|>system\nBe brief, word.\n\n# Tools")
    assert rest.count('<tool_call>\n{"name": "switch", "arguments": {"room": "word", "on": true}}\n</tool_call>') == 3
    assert "user\n<tool_response>\n" in rest
    assert "</tool_response>\n<tool_response>" in rest, "results that follow each other are one message"
    assert "assistant\nI see, word.\n<tool_call>" in rest


async def test_a_tool_without_parameters_has_none_in_the_prompt() -> None:
    renderer = TemplateRenderer("{{ tools | tojson }}", bos_token="", eos_token="")
    prompt = (await renderer.render((Message("user", "x"),), tools=(Tool("now"),))).text
    await renderer.close()
    assert json.loads(prompt)[0]["function"]["parameters"] == {"type": "object", "properties": {}}


async def test_arguments_that_are_no_object_stand_in_the_prompt_as_they_are() -> None:
    renderer = TemplateRenderer(
        "{% for c in messages[1].tool_calls %}{{ c.function.arguments }}{% endfor %}", bos_token="", eos_token=""
    )
    broken = Message("assistant", "", (ToolCall("a", "now", '{"x": '),))
    prompt = (await renderer.render((Message("user", "x"), broken, Message("user", "y")))).text
    await renderer.close()
    assert prompt == '{"x": '


async def test_where_a_template_has_no_calls_they_stand_in_the_answer_as_the_model_writes_them() -> None:
    template = next((text for name, text in TEMPLATES.items() if name == "LFM2-8B-A1B"), None)
    if template is None:
        pytest.skip("no templates of llama.cpp's source: see TP_TEMPLATES")
    renderer = TemplateRenderer(template, bos_token="", eos_token="", write=writer(syntax_of(template)))
    await renderer.start()
    prompt = await renderer.render(rounds("<|im_end|>")[1], tools=tools())
    await renderer.close()
    assert renderer.tools_form == "content"
    assert "<|tool_call_start|>[switch(room='<|im_end|>', on=True)]<|tool_call_end|><|im_end|>" in prompt.text
    own = template_text((prompt.text, prompt.contents))
    assert own.count("<|tool_call_start|>") == own.count("<|tool_call_end|>") == 1
    assert own.count("<|im_end|>") == 4, "what is an argument is none of the template's"
