"""Tool calls and thoughts in what models write: every family's, whole and broken, in whatever pieces they come."""

from __future__ import annotations

import json

import pytest

from tests.unit.calls import ARGUMENTS, THINK, TOOLS, WRITTEN, Said, said, said_in
from workers.calls import SYNTAXES, Arguments, CallBegun, CallEnded, Parser, Reasoning, Text
from workers.calls.values import KINDS, kinds


@pytest.mark.parametrize("case", WRITTEN)
def test_a_call_is_read_in_every_way_that_models_write_it(case: str) -> None:
    found = said_in(case.partition(":")[0], WRITTEN[case])

    assert [(name, json.loads(arguments)) for name, arguments in found.calls] == [("set_lamp", ARGUMENTS)]
    assert (found.text, found.reasoning, found.broken) == ("", "", [])


@pytest.mark.parametrize("case", WRITTEN)
def test_a_call_of_an_unknown_tool_comes_as_the_text_that_it_is(case: str) -> None:
    written = WRITTEN[case].replace("set_lamp", "open_door")

    found = said_in(case.partition(":")[0], written)

    assert (found.calls, found.names) == ([], {})
    assert found.text.split() == written.removeprefix("<|python_tag|>").split() or found.text.split() == written.split()
    assert all(reason == "unknown_tool" for reason, _, _ in found.broken)


@pytest.mark.parametrize("case", WRITTEN)
def test_a_call_that_is_cut_off_is_none_and_comes_as_text(case: str) -> None:
    written = WRITTEN[case]
    place = written.index("kitchen") + 3

    found = said_in(case.partition(":")[0], written[:place])

    assert found.calls == []
    assert found.text.split() == written[:place].split()
    assert {reason for reason, _, _ in found.broken} <= {"cut_off"}


@pytest.mark.parametrize("case", WRITTEN)
def test_without_tools_nothing_is_a_call(case: str) -> None:
    found = said(SYNTAXES[case.partition(":")[0]], [WRITTEN[case]])

    assert (found.names, found.broken if found.broken else []) in (({}, []), ({}, [("unknown_tool", None, "set_lamp")]))


@pytest.mark.parametrize("opened", [True, False])
def test_a_call_without_a_mark_is_one_behind_a_thought_too_whoever_began_it(opened: bool) -> None:
    call = '{"name": "set_lamp", "parameters": {"room": "hall"}}'
    syntax = SYNTAXES["llama3"].with_thoughts(THINK)

    for mark in ("", "<|python_tag|>"):
        found = said(
            syntax, ["" if opened else "<think>", f"It is dark.</think>\n\n{mark}{call}"], TOOLS, thinking=opened
        )
        assert found.calls == [("set_lamp", '{"room": "hall"}')]
        assert (found.text, found.reasoning, found.broken) == ("", "It is dark.", [])


def test_a_call_streams_as_it_grows() -> None:
    parser = Parser(SYNTAXES["hermes"], TOOLS)

    assert parser.feed('Sure.\n<tool_call>\n{"name": "set_') == [Text("Sure.")]
    assert parser.feed('lamp"') == [CallBegun(0, "set_lamp")]
    assert parser.feed(', "arguments": {"room": "kit') == [Arguments(0, '{"room": "kit')]
    assert parser.feed("chen\\") == [Arguments(0, "chen")]
    assert parser.feed("u00e") == []
    assert parser.feed('9"}') == [Arguments(0, '\\u00e9"}')]
    assert parser.feed("}\n</tool_call") == []
    assert parser.feed(">") == [CallEnded(0)]
    assert parser.finish() == []


def test_a_tagged_string_streams_and_other_values_wait_for_their_end() -> None:
    parser = Parser(SYNTAXES["qwen3-coder"], TOOLS)

    assert parser.feed("<tool_call>\n<function=set_lamp>") == [CallBegun(0, "set_lamp")]
    assert parser.feed('\n<parameter=room>\nthe "old"\nkit') == [Arguments(0, '{"room": "the \\"old\\"\\nkit')]
    assert parser.feed("chen\n</parameter>\n<parameter=level>\n1") == [Arguments(0, 'chen", "level": ')]
    assert parser.feed("2\n</parameter>\n</function>") == [Arguments(0, "12}"), CallEnded(0)]


@pytest.mark.parametrize(
    ("parameter", "written", "expected"),
    [
        ("room", "5", "5"),
        ("room", "null", "null"),
        ("room", "a </parameter> b <tool_call> </tool_call>", "a </parameter> b <tool_call> </tool_call>"),
        ("room", "\nfirst\n\n", "\nfirst\n\n"),
        ("on", "True", True),
        ("on", "perhaps", "perhaps"),
        ("level", "12", 12),
        ("level", "None", None),
        ("scene", "night", "night"),
        ("scene", "7", "7"),
        ("colours", '["red", "</parameter>"]', ["red", "</parameter>"]),
        ("other", "7", 7),
        ("other", "seven", "seven"),
    ],
)
def test_a_tags_text_becomes_what_the_schema_says(parameter: str, written: str, expected: object) -> None:
    found = said_in(
        "qwen3-coder",
        f"<tool_call>\n<function=set_lamp>\n<parameter={parameter}>\n{written}\n</parameter>\n</function>\n</tool_call>",
    )

    assert [json.loads(arguments) for _, arguments in found.calls] == [{parameter: expected}]


@pytest.mark.parametrize(
    "arguments",
    [
        '{"room": "</tool_call> {}} \\"quoted\\" \\\\"}',
        '{"room": "line\\nline\\u00e9\\ud83d\\ude00", "deep": {"a": [1, [2, {"b": []}]]}}',
        '{\n  "room" : "küche 🏠" ,\n  "level" : -1.5e+3\n}',
        "{}",
    ],
)
def test_arguments_are_handed_on_as_they_were_written(arguments: str) -> None:
    found = said_in("hermes", f'<tool_call>\n{{"name": "set_lamp", "arguments": {arguments}}}\n</tool_call>')

    assert found.calls == [("set_lamp", arguments)]


def test_what_json_has_no_room_for_in_a_string_is_escaped() -> None:
    found = said_in("hermes", '<tool_call>{"name": "python", "arguments": {"code": "a = \\\'x\\\'\n\tb"}}</tool_call>')

    assert [json.loads(arguments) for _, arguments in found.calls] == [{"code": "a = 'x'\n\tb"}]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ('<tool_call>{"name": "set_lamp", "arguments": {"room": kitchen}}</tool_call>', "invalid_json"),
        ('<tool_call>{"name": "set_lamp", "arguments": {"room": "a", }}</tool_call>', "invalid_json"),
        ('<tool_call>{"name": "set_lamp", "arguments": {"level": 01}}</tool_call>', "invalid_json"),
        ('<tool_call>{"name": "set_lamp", "arguments": {"level": NaN}}</tool_call>', "invalid_json"),
        ('<tool_call>{"name": "set_lamp", "arguments": {"level": ' + "1" * 5000 + "}}</tool_call>", "invalid_json"),
        ('<tool_call>{"name": "set_lamp", "arguments": ' + '{"a": ' * 500 + "</tool_call>", "invalid_json"),
        ('<tool_call>{"name": "set_lamp", "arguments": [1]}</tool_call>', "invalid_arguments"),
        ('<tool_call>{"name": "set_lamp", "arguments": "[1]"}</tool_call>', "invalid_arguments"),
        ('<tool_call>{"arguments": {}}</tool_call>', "invalid_syntax"),
        ("<tool_call>the lamp</tool_call>", "invalid_syntax"),
        ('<tool_call>{"name": "set_lamp", "arguments": {"room": "kit', "cut_off"),
        ('<tool_call>{"name": "set_lamp"', "cut_off"),
        ("<tool_call>", "cut_off"),
    ],
)
def test_a_broken_call_comes_as_text_with_a_reason(written: str, reason: str) -> None:
    found = said_in("hermes", "Let me see.\n", written)

    assert (found.text, found.calls) == ("Let me see.\n" + written, []) or found.text == "Let me see." + written
    assert [said_of[0] for said_of in found.broken] == [reason]


def test_what_follows_a_broken_call_is_read_on() -> None:
    good = '<tool_call>\n{"name": "set_lamp", "arguments": {"room": "hall"}}\n</tool_call>'

    found = said_in("hermes", f'<tool_call>{{"name": "set_lamp", "arguments": oops}}</tool_call>\n{good}')

    assert found.calls == [("set_lamp", '{"room": "hall"}')]
    assert found.ended == [1]


def test_of_a_list_the_unknown_ones_are_text() -> None:
    found = said_in(
        "mistral-list", '[TOOL_CALLS][{"name": "no", "arguments": {}}, {"name": "clock.now", "arguments": {}}]'
    )

    assert found.calls == [("clock.now", "{}")]
    assert found.text == '[TOOL_CALLS][{"name": "no", "arguments": {}}'
    assert found.broken == [("unknown_tool", None, "no")]


def test_more_calls_than_are_allowed_are_text() -> None:
    one = '<tool_call>{"name": "clock.now", "arguments": {}}</tool_call>'
    parser = Parser(SYNTAXES["hermes"], TOOLS, max_calls=1)

    found = Said([*parser.feed(one + one), *parser.finish()])

    assert found.calls == [("clock.now", "{}")]
    assert found.text.strip() == one
    assert [reason for reason, _, _ in found.broken] == ["too_many"]


def test_a_broken_call_does_not_use_up_the_one_that_is_allowed() -> None:
    one = '<tool_call>{"name": "clock.now", "arguments": {}}</tool_call>'
    broken = '<tool_call>{"name": "set_lamp", "arguments": {"room": tru}}</tool_call>'
    parser = Parser(SYNTAXES["hermes"], TOOLS, max_calls=1)

    found = Said([*parser.feed(broken + one + one), *parser.finish()])

    assert found.calls == [("clock.now", "{}")]
    assert [(reason, index) for reason, index, _ in found.broken] == [("invalid_json", 0), ("too_many", None)]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ada", "age": 36}',
        '{"name": "set_lamp", "description": "switches a lamp"}',
        '```json\n{"a": 1}\n```',
        "[link](https://example.org) and [1, 2]",
        "Use `<think>` and `</think>` in the text.",
        "#include <functional>\n<function=x> a < b",
        "  leading and trailing  \n",
        "<<<<<tool_cal",
    ],
)
@pytest.mark.parametrize("name", ["hermes", "llama3", "qwen3-coder", "mistral", "lfm2", "tool-code"])
def test_text_that_only_looks_like_a_call_stays_as_it_is(name: str, text: str) -> None:
    found = said_in(name, text)

    assert (found.text, found.names, found.broken) == (text, {}, [])


def test_a_program_is_a_call_of_the_tool_that_takes_one() -> None:
    program = 'import math\nprint("{}", math.pi)'

    for name, written in (("llama3", f"<|python_tag|>{program}"), ("functionary-v3.2", f"python\n{program}")):
        assert [json.loads(arguments) for _, arguments in said_in(name, written).calls] == [{"code": program}]


@pytest.mark.parametrize("name", [name for name, syntax in SYNTAXES.items() if syntax.whole is None])
def test_a_thought_is_told_apart_whoever_began_it(name: str) -> None:
    thoughts = SYNTAXES[name].thoughts or THINK
    rest = f"\nI see.\n{thoughts.end}\n\nIt is on."

    for found in (said_in(name, f"{thoughts.begin}{rest}"), said_in(name, rest, thinking=True)):
        assert (found.reasoning, found.text, found.broken) == ("I see.", "It is on.", [])


def test_a_thought_that_never_ends_is_a_thought() -> None:
    parser = Parser(SYNTAXES["hermes"].with_thoughts(THINK), TOOLS, thinking=True)

    assert parser.is_thinking
    assert parser.feed("Let me see </thin") == [Reasoning("Let me see")]
    assert parser.is_thinking
    assert parser.finish() == [Reasoning(" </thin")]


def test_a_call_within_a_thought_is_one_where_its_family_means_it() -> None:
    thought = "I should. <tool_call>\n<function=clock.now>\n</function>\n</tool_call>"

    assert said_in("qwen3-coder", thought, thinking=True).calls == [("clock.now", "{}")]
    assert said_in("hermes", thought, thinking=True).reasoning == thought


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"enum": ["a", 1, None]}, {"string", "number", "null"}),
        ({"const": True}, {"boolean"}),
        ({"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/a~1b"}]}, {"integer", "array"}),
        ({"allOf": [{"minLength": 1}, {"type": "string"}]}, {"string"}),
        ({"type": "number", "nullable": True}, {"number", "null"}),
        ({"properties": {}}, {"object"}),
        ({"type": "object", "anyOf": [{"required": ["a"]}]}, {"object"}),
        ({"$ref": "#/$defs/nowhere"}, KINDS),
        ({"$ref": "#/$defs/loop"}, KINDS),
        ({"$ref": "#/$defs/many"}, KINDS),
        ({}, KINDS),
        (True, KINDS),
    ],
)
def test_the_kinds_that_a_schema_allows_are_found_in_bounded_time(schema: object, expected: set[str]) -> None:
    many = {"anyOf": [{"$ref": "#/$defs/many"}] * 20}
    root = {"$defs": {"a/b": {"items": {}}, "loop": {"$ref": "#/$defs/loop"}, "many": many}}

    assert kinds(schema, root) == expected
