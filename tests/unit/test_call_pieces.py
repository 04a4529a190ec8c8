"""Whatever a model writes, and however it is cut into pieces: calls and thoughts come out the same, in linear time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.calls import THINK, TOOLS, WRITTEN, said, said_in
from workers.calls import SYNTAXES, Parser


@pytest.mark.parametrize("name", ["hermes", "mistral", "lfm2", "gemma4", "qwen3-coder", "deepseek-v4", "minimax-m2"])
@given(text=st.text())
def test_a_string_survives_whatever_it_is(name: str, text: str) -> None:
    quoted = json.dumps(text, ensure_ascii=False)
    call: Callable[[], str] = {
        "hermes": lambda: f'<tool_call>{{"name": "set_lamp", "arguments": {{"room": {quoted}}}}}</tool_call>',
        "mistral": lambda: f'[TOOL_CALLS]set_lamp[ARGS]{{"room": {quoted}}}',
        "lfm2": lambda: f"<|tool_call_start|>[set_lamp(room={text!r})]<|tool_call_end|>",
        "gemma4": lambda: f'<|tool_call>call:set_lamp{{room:<|"|>{text}<|"|>}}<tool_call|>',
        "qwen3-coder": lambda: (
            f"<tool_call>\n<function=set_lamp>\n<parameter=room>\n{text}\n</parameter>\n</function>\n</tool_call>"
        ),
        "deepseek-v4": lambda: (
            '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="set_lamp">\n<｜DSML｜parameter name="room" '
            f'string="true">{text}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
        ),
        "minimax-m2": lambda: (
            '<minimax:tool_call>\n<invoke name="set_lamp">\n<parameter name="room">'
            f"{text}</parameter>\n</invoke>\n</minimax:tool_call>"
        ),
    }[name]

    found = said_in(name, call())

    assert [json.loads(arguments) for _, arguments in found.calls] == [{"room": text}]


PIECES = st.sampled_from(
    [
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        '"',
        "'",
        "\\",
        "\\u12",
        ",",
        ":",
        "=",
        "<",
        ">",
        "\n",
        " ",
        "é",
        "1",
        "-",
        "true",
        "name",
    ]
    + [
        "</",
        "set_lamp",
        '"arguments"',
        '{"name": "set_lamp", "arguments": {',
        "room",
        "all",
        "to=",
        "</think>",
        "<think>",
    ]
    + sorted({mark for syntax in SYNTAXES.values() for mark in (*syntax.starts, *syntax.maybe, *syntax.ignored)})
    + [written[place : place + 9] for written in WRITTEN.values() for place in range(0, len(written), 9)]
)


@pytest.mark.parametrize("name", SYNTAXES)
@settings(max_examples=50)
@given(pieces=st.lists(PIECES | st.text(max_size=5), max_size=12), thinking=st.booleans(), data=st.data())
def test_nothing_breaks_it_and_no_cut_changes_what_is_said(
    name: str, pieces: list[str], thinking: bool, data: st.DataObject
) -> None:
    text = "".join(pieces)
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))

    whole = said_in(name, text, thinking=thinking)

    assert said_in(name, *pieces, thinking=thinking) == whole
    cut = [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert said_in(name, *cut, thinking=thinking) == whole
    for _, arguments in whole.calls:
        assert isinstance(json.loads(arguments), dict)


@pytest.mark.parametrize("name", SYNTAXES)
@settings(max_examples=20)
@given(text=st.text())
def test_plain_text_is_handed_on_unchanged(name: str, text: str) -> None:
    syntax = SYNTAXES[name]

    if syntax.whole is None and not any(mark in text for mark in (*syntax.ignored, *syntax.starts)):
        assert said(syntax.with_thoughts(None), text).text == text


EACH_READER = (
    "hermes",
    "qwen3-coder",
    "mistral",
    "deepseek",
    "lfm2",
    "gemma4",
    "gpt-oss",
    "minimax-m3",
    "functionary-v3.2",
)


@pytest.mark.parametrize("name", EACH_READER)
@pytest.mark.parametrize("in_call", [False, True])
@pytest.mark.parametrize("piece", ["<<<<<", "\n\n\n\n\n", "a\\n\n ", "{[(<|"])
def test_eight_times_the_text_takes_eight_times_as_long(name: str, in_call: bool, piece: str) -> None:
    syntax = SYNTAXES[name]
    begun = WRITTEN.get(name, "".join(syntax.starts)).partition("kitchen")[0] if in_call else ""

    def seconds(num: int, at_once: int) -> float:
        parser = Parser(syntax.with_thoughts(syntax.thoughts or THINK), TOOLS, thinking=not in_call)
        parser.feed(begun)
        started = time.process_time()
        for _ in range(num // at_once):
            parser.feed(piece * at_once)
        parser.finish()
        return time.process_time() - started

    assert seconds(8_000, 1) < 24 * max(seconds(1_000, 1), 0.005)
    assert seconds(8_000, 8_000) < 24 * max(seconds(1_000, 1_000), 0.005)
