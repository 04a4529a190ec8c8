"""A call as a grammar would force it, and as a template writes it into a conversation, is read as that call."""

from __future__ import annotations

import json
from typing import Any

import jinja2
import pytest

from tests.unit.call_templates import FOLDER, conversation, written
from tests.unit.calls import said, said_in
from tests.unit.test_call_expectations import TEMPLATES
from workers.calls import SYNTAXES, Form, Syntax, Tool, Written, syntax_of
from workers.calls.deriving import ANSWER, PROBE, derived
from workers.calls.deriving import ARGUMENTS as PROBE_ARGUMENTS

ARGUMENTS: dict[str, Any] = {
    "room": 'the "old" kitchen\'s\nend: </x> 🏠',
    "on": True,
    "level": None,
    "colours": ["red", "a, b"],
}
FORMS = {name: syntax.form for name, syntax in SYNTAXES.items() if syntax.form is not None}


def _gemma(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_gemma(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_gemma, value)) + "]"
    return f'<|"|>{value}<|"|>' if isinstance(value, str) else json.dumps(value)


def _nested(mark: str, value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"{mark}<{name}>{_nested(mark, part)}{mark}</{name}>" for name, part in value.items())
    if isinstance(value, list):
        return "".join(f"{mark}<item>{_nested(mark, part)}{mark}</item>" for part in value)
    return value if isinstance(value, str) else json.dumps(value)


def _arguments(form: Form, arguments: dict[str, Any]) -> str:
    if form.arguments == "tagged":
        return "".join(
            f"{form.before_key}{name}{form.before_text}{value}{form.after_value}"
            if isinstance(value, str)
            else f"{form.before_key}{name}{form.before_value}{json.dumps(value)}{form.after_value}"
            for name, value in arguments.items()
        )
    match form.arguments:
        case "pythonic":
            return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        case "gemma":
            return _gemma(arguments)
        case "nested":
            return _nested(form.before_key, arguments)
    return json.dumps(arguments)


def _written(form: Form, calls: list[tuple[str, dict[str, Any]]]) -> str:
    each = (
        f"{form.before_name}{name}{form.before_arguments}{_arguments(form, said)}{form.after}" for name, said in calls
    )
    return form.begin + (form.between or "").join(each) + form.end


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("arguments", [ARGUMENTS, {"room": ""}, {}])
def test_a_call_in_its_form_is_read_as_that_call(name: str, arguments: dict[str, Any]) -> None:
    form = FORMS[name]
    calls = [("set_lamp", arguments)] + ([("clock.now", {})] if form.between is not None else [])
    written = _written(form, calls)

    found = said_in(name, written.removeprefix(">>>"))

    assert bool(SYNTAXES[name].trigger) == (name != "functionary-v3.2")  # whose mark begins its texts as well
    assert written.startswith(SYNTAXES[name].trigger)
    assert [(called, json.loads(said_of)) for called, said_of in found.calls] == calls
    assert (found.text.strip(), found.broken) == ("", [])


# --- The templates ---------------------------------------------------------------------------------------------------

LEAVES_OUT = {
    "HuggingFaceTB-SmolLM3-3B": "tools, but no calls",
    "LFM2-8B-A1B": "tools, but no calls",
    "LFM2.5-Instruct": "tools, but no calls",
    "ibm-granite-granite-3.3-2B-Instruct": "tools, but no calls",
    "google-gemma-2-2b-it": "neither",
    "llama-cpp-rwkv-world": "neither",
    "microsoft-Phi-3.5-mini-instruct": "neither",
    "llama-cpp-deepseek-r1": "it takes llama.cpp's own Jinja to render it",
    "NVIDIA-Nemotron-Nano-v2": "it opens a thought before each answer, and closes none",
}
"""Template → what it writes into a prompt, so that there is no call to read."""
_LAMP = Tool(
    "set_lamp",
    {
        "type": "object",
        "properties": {
            "room": {"type": "string", "description": "Where it is."},
            "on": {"type": "boolean", "description": "Whether it shines."},
            "level": {"type": "integer", "description": "In per cent."},
            "colours": {"type": "array", "items": {"type": "string"}, "description": "One after the other."},
        },
        "required": ["room", "on"],
    },
)
_SWITCHED = {**ARGUMENTS, "room": 'the "old" kitchen\nend: </x> 🏠', "level": 5}


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the set-up leaves the templates there")
@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - set(LEAVES_OUT)))
def test_what_a_template_writes_of_a_call_is_read_as_that_call(template: str) -> None:
    syntax = syntax_of((FOLDER / f"{template}.jinja").read_text())
    prompt, answer = written(template, _LAMP, _SWITCHED)

    found = said(syntax, [answer], [_LAMP], thinking=syntax.thinks_after(prompt))

    assert [(name, json.loads(arguments)) for name, arguments in found.calls] == [(_LAMP.name, _SWITCHED)], answer
    assert found.broken == []
    assert found.reasoning.strip() in ("", "I must.", "Here.")


TOO_MUCH_OF_THEIR_OWN = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "a call is prose",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "another turn stands behind the call",
    "Kimi-K3": "tags that end with a mark of their own",
    "LFM2.5-8B-A1B": "Python",
    "MiniMax-M3": "tags named like the arguments",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "another turn stands behind the call",
    "google-gemma-4-31B-it": "neither JSON nor tags",
    "google-gemma-4-31B-it-interleaved": "the same",
    "meetkai-functionary-medium-v3.2": "the prompt ends with the call's mark",
    "muse-glimmer": "the name stands there twice",
    "tencent-Hy3": "a mark behind the name, and a tag",
}
"""Template → why its syntax cannot be read off; they are all known by what they say."""


def _derived(template: str) -> Syntax | None:
    prompt, call = written(template, PROBE, PROBE_ARGUMENTS, ("", None, "Here."))
    try:
        answer = conversation(template, PROBE, {"content": ANSWER})
    except jinja2.TemplateError:
        answer = ""
    return derived(Written(conversation(template, PROBE), prompt + call, answer))


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the set-up leaves the templates there")
@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - set(LEAVES_OUT)))
def test_a_syntax_that_nobody_knows_is_read_off_what_the_template_writes(template: str) -> None:
    syntax = _derived(template)

    assert (syntax is None) == (template in TOO_MUCH_OF_THEIR_OWN)
    if syntax is not None:
        _, answer = written(template, _LAMP, _SWITCHED, ("", None, "Here."))
        found = said(syntax, [answer], [_LAMP])
        assert [(name, json.loads(arguments)) for name, arguments in found.calls] == [(_LAMP.name, _SWITCHED)], answer


def test_an_unknown_template_is_asked_what_it_writes() -> None:
    call = '<|fn|>{"fn": "first_probe", "with": {"left_probe": "value one", "right_probe": "value two"}}<|/fn|><|end|>'
    seen = Written("Q<|bot|>", f"Q<|bot|>{call}", f"Q<|bot|>{ANSWER}<|end|>")

    syntax = syntax_of("{{ messages }}", written=seen)

    assert (syntax.starts, syntax.trigger) == (("<|fn|>",), "<|fn|>")
    assert said(syntax, ['<|fn|>{"fn": "set_lamp", "with": {"room": "a"}}<|/fn|>'], [_LAMP]).calls == [
        ("set_lamp", '{"room": "a"}')
    ]
    assert syntax_of("{{ messages }}", written=Written("Q", "Q", "Q")).name == "hermes"
    assert syntax_of("[TOOL_CALLS]", written=seen).name == "mistral-list"
