"""What llama.cpp's own tests expect of its parsers (tests/test-chat.cpp of the version that the set-up pins), for each
template that they name. Inputs and expectations are in llama_cpp_calls.jsonl, which also says of each template what it
writes around calls and thoughts: its first line has the tools and the templates, each other line is a case.

A case that wants thoughts left in the text has to have the same words, thoughts and text together; one that goes on
with an answer begun by the prompt has only what follows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.call_templates import FOLDER
from tests.unit.calls import Said, said
from workers.calls import SYNTAXES, Parser, Syntax, Thoughts, Tool, syntax_of

_LINES = [json.loads(line) for line in Path(__file__).with_name("llama_cpp_calls.jsonl").read_text().splitlines()]
TOOLS: dict[str, dict[str, Any]] = _LINES[0]["tools"]
"""By name; a second tool of a name has a plus sign behind it."""
TEMPLATES: dict[str, list[str]] = _LINES[0]["templates"]
"""Template → syntax, and what its thoughts begin and end with where it has any."""
CASES: list[dict[str, Any]] = _LINES[1:]

_UNOFFERED = "<|channel|>analysis<|message|>I will execute python to say hello<|end|><|start|>assistant"
MISSES = {
    ("Qwen3.5-4B", "<think>\n\n</think>\n\n<tool_call>\n<function"): "a thought that the template has begun and the "
    "model begins again is one thought: its mark is no word of it",
    ("mistralai-Ministral-3-14B-Reasoning-2512", "[THINK]I need to output"): "a fence around the JSON that a schema "
    "wants: our grammar for a schema admits none",
    ("meta-llama-Llama-3.1-8B-Instruct", '```json\n"42"'): "the same",
    ("openai-gpt-oss-120b", f"{_UNOFFERED} to="): "a call of a tool that nobody offered is told, and comes as text, "
    "where llama.cpp drops it",
    ("openai-gpt-oss-120b", f"{_UNOFFERED}<|channel|>commentary to=python"): "the same",
}
"""Template and how the input begins → why it comes out differently here."""


def _missed(case: dict[str, Any]) -> bool:
    return any(case["template"] == name and case["input"].startswith(begin) for name, begin in MISSES)


def _syntax(template: str) -> Syntax:
    """As it has to be chosen for the template."""
    name, *marks = TEMPLATES[template]
    syntax = SYNTAXES[name]
    if syntax.thoughts is not None and syntax.thoughts.begin in marks:
        return syntax
    return syntax.with_thoughts(Thoughts(marks[0], marks[1], anywhere=marks[0] == "[THINK]") if marks else None)


def _tools(case: dict[str, Any]) -> list[Tool]:
    return [Tool(name.rstrip("+"), TOOLS[name]) for name in case.get("tools", ())]


def _thinks(case: dict[str, Any], syntax: Syntax) -> bool:
    if "continues" in case:
        return bool(case["continues"] == "thought")
    return syntax.thinks_after(case["prompt_end"])


def _same_json(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments))
    except ValueError:
        return "".join(arguments.split())


def _said(case: dict[str, Any]) -> tuple[Said, list[tuple[str, str]]]:
    """What was said, and the calls: those that are whole, or what is sure of them in an answer that goes on."""
    syntax = _syntax(case["template"])
    if not case.get("partial"):
        whole = said(syntax, [case["input"]], _tools(case), thinking=_thinks(case, syntax))
        return whole, whole.calls
    so_far = Said(Parser(syntax, _tools(case), thinking=_thinks(case, syntax)).feed(case["input"]))
    return so_far, [(name, so_far.arguments[index]) for index, name in so_far.names.items()]


def _is_as_expected(case: dict[str, Any]) -> bool:
    found, calls = _said(case)
    expected = [(name, _same_json(arguments)) for name, arguments, *_ in case.get("calls", ())]
    ids = [call_id for _, _, call_id in (call for call in case.get("calls", ()) if len(call) == 3)]
    if [(name, _same_json(arguments)) for name, arguments in calls] != expected:
        return False
    if ids and [found.ids[index] for index in found.names] != ids:
        return False
    text, reasoning = case.get("text", "").strip(), case.get("reasoning", "").strip()
    if case.get("thoughts_in_text") and found.reasoning:
        thoughts = _syntax(case["template"]).thoughts
        assert thoughts is not None
        words = text.replace(thoughts.begin, " ").replace(thoughts.end, " ").split()
        return bool((found.reasoning + " " + found.text).split() == words)
    return (found.text.strip(), found.reasoning.strip()) == (text, reasoning)


@pytest.mark.parametrize("index", range(len(CASES)))
def test_an_answer_is_read_as_llama_cpp_expects_it(index: int) -> None:
    assert _is_as_expected(CASES[index]) != _missed(CASES[index]), CASES[index]


def test_what_comes_out_differently_is_at_most_one_case_in_fifty() -> None:
    assert sum(map(_missed, CASES)) == len(MISSES) <= len(CASES) // 50


@pytest.mark.parametrize("name", sorted({TEMPLATES[case["template"]][0] for case in CASES}))
def test_an_answer_in_two_pieces_says_the_same_wherever_it_is_cut(name: str) -> None:
    done = set()
    for case in CASES:
        syntax, text = _syntax(case["template"]), case["input"]
        thinking = _thinks(case, syntax)
        if syntax.name != name or (text, thinking) in done:
            continue
        done.add((text, thinking))
        whole = said(syntax, [text], _tools(case), thinking=thinking)
        assert said(syntax, text, _tools(case), thinking=thinking) == whole, text
        for place in range(1, len(text)):
            pieces = text[:place], text[place:]
            assert said(syntax, pieces, _tools(case), thinking=thinking) == whole, pieces
    assert done


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the set-up leaves the templates there")
@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_a_template_says_which_syntax_its_model_has(template: str) -> None:
    syntax = syntax_of((FOLDER / f"{template}.jinja").read_text())
    marks = [syntax.thoughts.begin, syntax.thoughts.end] if syntax.thoughts else []
    assert [syntax.name, *marks] == TEMPLATES[template]
