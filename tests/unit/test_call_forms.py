"""A call as a grammar would force it, and as a template writes it into a conversation, is read as that call."""

from __future__ import annotations

import json
import os
from itertools import takewhile
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import pytest
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from tests.unit.calls import said, said_in
from tests.unit.test_call_expectations import TEMPLATES
from workers.calls import SYNTAXES, Form, Tool, syntax_of

FOLDER = Path(os.environ.get("TP_TEMPLATES", ".cache/llama-templates"))
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

    assert form.trigger
    assert written.startswith(form.trigger)
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
_QUESTION = {"role": "user", "content": "Switch the lamp, please."}


class _Generation(Extension):
    """Marks what is trained on."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """What it marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """As Hugging Face's apply_chat_template has it."""

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    def refuse(message: str) -> str:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda _: "26 Nov 2026"
    return environment


def _answer(template: str) -> tuple[str, str]:
    """A prompt, and what the template writes behind it of an answer with a call. Templates differ in what they take:
    arguments as an object or as text, an answer with a text or without one."""
    source = _environment().from_string((FOLDER / f"{template}.jinja").read_text())
    function = {"name": _LAMP.name, "description": "Switches a lamp.", "parameters": _LAMP.parameters}
    tools = [{"type": "function", "function": function}]
    taken = {"tools": tools, "functions": json.dumps(tools), "datetime": "now", "bos_token": "", "eos_token": ""}
    prompt = source.render(messages=[_QUESTION], add_generation_prompt=True, **taken)
    for arguments in (_SWITCHED, json.dumps(_SWITCHED)):
        for content in ({"content": "Here.", "reasoning_content": "I must."}, {"content": ""}, {"content": None}):
            call = {"id": "abcdefghi", "type": "function", "function": {"name": _LAMP.name, "arguments": arguments}}
            answer = {"role": "assistant", **content, "tool_calls": [call]}
            try:
                text = source.render(messages=[_QUESTION, answer], add_generation_prompt=False, **taken)
            except (jinja2.TemplateError, TypeError):
                continue
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, text, strict=False)))
            if _LAMP.name in text[same:]:
                return text[:same], text[same:]
    raise AssertionError(template)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the set-up leaves the templates there")
@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - set(LEAVES_OUT)))
def test_what_a_template_writes_of_a_call_is_read_as_that_call(template: str) -> None:
    syntax = syntax_of((FOLDER / f"{template}.jinja").read_text())
    prompt, answer = _answer(template)

    found = said(syntax, [answer], [_LAMP], thinking=syntax.thinks_after(prompt))

    assert [(name, json.loads(arguments)) for name, arguments in found.calls] == [(_LAMP.name, _SWITCHED)], answer
    assert found.broken == []
    assert found.reasoning.strip() in ("", "I must.", "Here.")
