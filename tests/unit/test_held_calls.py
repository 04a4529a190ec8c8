"""Calls held by a grammar, in every syntax: a valid one is let through as its syntax writes it, no other is."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from broker.errors import TurnRejected
from broker.messages import Message, Turn
from broker.messages import Tool as WireTool
from broker.messages.tools import NamedTool
from tests.follow import END, Bytes
from tests.unit.calls import said
from tests.unit.test_call_forms import _written
from workers.calls import SYNTAXES as KNOWN
from workers.calls import Syntax, Tool, Written
from workers.calls.deriving import ANSWER, derived
from workers.calls.openings import FORCED, can_hold, forms_behind, held
from workers.grammars.call_rules import CallRules, CallsWanted, call_rules
from workers.grammars.frames import IS_ACCEPTING, IS_DONE
from workers.grammars.held_calls import HeldCalls
from workers.grammars.matcher import Matcher, TokenTable
from workers.turns.answer_reader import AnswerReaders, joined
from workers.turns.holding import Holding

PROBED = '{"left_probe": "value one", "right_probe": "value two"}'
OF_STRANGERS = {
    "an object": f'<|fn|>{{"fn": "first_probe", "with": {PROBED}}}<|/fn|>',
    "objects": f'<calls>[{{"name": "first_probe", "arguments": {PROBED}}}]</calls>',
    "a function": f'<do>{{"type": "function", "function": {{"name": "first_probe", "parameters": {PROBED}}}}}</do>',
    "a key": f'<do>{{"first_probe": {PROBED}}}</do>',
    "a name": f"<|call|>first_probe<|with|>{PROBED}<|/call|>",
    "elements": "<call>\n<do=first_probe>\n"
    "<is=left_probe>\nvalue one\n</is>\n<is=right_probe>\nvalue two\n</is>\n</do>\n</call>",
}
"""A call as templates that nobody knows may write it: of each way in which a syntax is read off one."""


def _read_off(call: str) -> Syntax:
    found = derived(Written("Q<|bot|>", f"Q<|bot|>{call}<|end|>", f"Q<|bot|>{ANSWER}<|end|>"))
    assert found is not None, call
    return found


SYNTAXES = dict(KNOWN) | {f"derived: {how}": _read_off(call) for how, call in OF_STRANGERS.items()}
FORMS = {name: syntax.form for name, syntax in SYNTAXES.items() if syntax.form is not None}
HELD = sorted(name for name, syntax in SYNTAXES.items() if can_hold(syntax))
LAMP = Tool(
    "set_lamp",
    {
        "type": "object",
        "properties": {
            "room": {"type": "string"},
            "on": {"type": "boolean"},
            "level": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 100}, {"type": "null"}]},
            "colours": {"type": "array", "items": {"type": "string"}},
            "mode": {"enum": ["soft", "bright"]},
        },
        "required": ["room"],
    },
)
CLOCK = Tool("clock.now", {"type": "object", "properties": {}, "additionalProperties": False})
NOTE = Tool("note", {"type": "object", "properties": {"of": {"type": ["string", "null"]}}, "required": ["of"]})
TOOLS = (LAMP, CLOCK, NOTE)
VALID: list[list[tuple[str, dict[str, Any]]]] = [
    [("set_lamp", {"room": 'the "old" kitchen\'s\nend: </x> 🏠', "on": True, "level": 5, "colours": ["red", "a, b"]})],
    [("set_lamp", {"room": "", "level": None, "mode": "soft"})],
    [("clock.now", {})],
    [("note", {"of": "north"})],
    [("note", {"of": None})],
]
INVALID: list[tuple[str, dict[str, Any]]] = [
    ("set_lamps", {"room": "hall"}),
    ("set_lam", {"room": "hall"}),
    ("set_lamp", {"on": True}),
    ("set_lamp", {"room": "hall", "on": "yes"}),
    ("set_lamp", {"room": "hall", "level": 101}),
    ("set_lamp", {"room": "hall", "colours": [1]}),
    ("set_lamp", {"room": "hall", "mode": "loud"}),
    ("set_lamp", {"room": "hall", "other": 1}),
    ("clock.now", {"room": "hall"}),
]


def marks_of(syntax: Syntax) -> tuple[str, ...]:
    """What a vocabulary may have as tokens without a text."""
    form = syntax.form
    assert form is not None
    texts = (*syntax.starts, *syntax.ignored, form.before_name, form.before_arguments, form.after, form.begin, form.end)
    found = {
        part for text in texts for part in text.split() if part.startswith(("<|", "[", "<｜")) and part[-1] in "|>]｜"
    }
    return tuple(sorted(part for part in found if part.count("<") < 2 and part.count("[") < 2 and part[0] != part[-1]))


class Spelled(Bytes):
    """Bytes, and a token without a text for each mark."""

    def __init__(self, marks: tuple[str, ...]) -> None:
        self.num_tokens = 257 + len(marks)
        self.shown = {257 + index: mark.encode() for index, mark in enumerate(marks)}

    def tokens(self, text: str) -> list[int]:
        """The text, with its marks as tokens."""
        found: list[int] = []
        while text:
            mark = next((one for one in self.shown.items() if text.startswith(one[1].decode())), None)
            found += [mark[0]] if mark else text[0].encode()
            text = text[len(mark[1].decode()) if mark else 1 :]
        return found

    def text(self, tokens: list[int]) -> str:
        return b"".join(self.shown.get(token) or bytes([token]) for token in tokens).decode("utf-8", "replace")


VOCABULARIES = {name: Spelled(marks_of(SYNTAXES[name])) for name in HELD}
TABLES = {name: TokenTable(VOCABULARIES[name]) for name in HELD}
RULES: dict[tuple[str, bool], CallRules] = {}


def rules_of(name: str, *, is_one: bool = False) -> CallRules:
    key = name, is_one
    if key not in RULES:
        syntax, marks = (
            SYNTAXES[name],
            {spelling.decode(): token for token, spelling in VOCABULARIES[name].shown.items()},
        )
        thought = syntax.thoughts.begin if syntax.thoughts else ""
        wanted = CallsWanted(TOOLS, forms_behind(held(syntax)), marks, is_one, thought, syntax.behind_thought)
        RULES[key] = call_rules(wanted)
    return RULES[key]


def holding(name: str, *, is_forced: bool = False, thinking: bool = False) -> HeldCalls:
    shown = VOCABULARIES[name].shown
    return HeldCalls(rules_of(name), held(SYNTAXES[name]), TOOLS, shown, is_forced=is_forced, thinking=thinking)


def let_through(name: str, text: str, *, is_forced: bool = False, thinking: bool = False) -> int:
    """How many tokens of the text are let through; one more where the answer may end behind it."""
    vocabulary = VOCABULARIES[name]
    follower = holding(name, is_forced=is_forced, thinking=thinking).follow(vocabulary.piece)
    matcher: Matcher | None = None
    tokens = vocabulary.tokens(text)
    for index, token in enumerate(tokens):
        if follower.gbnf is None and not follower.would_open(token):
            continue
        if matcher is None:
            assert follower.gbnf is not None
            matcher = Matcher(TABLES[name], follower.gbnf, has_tokens=True)
            assert all(matcher.take(before) for before in follower.tokens)
        if not matcher.take(token):
            return index
        if not follower.take(token):
            matcher = None
    return len(tokens) + (matcher is None or bool(matcher.flags & IS_ACCEPTING))


def is_whole(name: str, text: str, **how: bool) -> bool:
    return let_through(name, text, **how) == len(VOCABULARIES[name].tokens(text)) + 1


def calls_in(name: str, text: str) -> list[tuple[str, Any]]:
    found = said(held(SYNTAXES[name]), [text], TOOLS, is_held=True)
    return [(called, json.loads(arguments)) for called, arguments in found.calls]


def test_all_syntaxes_but_two_are_held() -> None:
    assert set(SYNTAXES) - set(HELD) == {"muse", "minimax-m3"}
    for name in HELD:
        syntax = SYNTAXES[name]
        assert syntax.whole is not None or set(syntax.starts) <= set(forms_behind(syntax)), name
        assert rules_of(name).loose == (), name


@pytest.mark.parametrize("name", HELD)
def test_what_a_syntax_writes_of_a_valid_call_is_let_through_and_read_as_that_call(name: str) -> None:
    form = FORMS[name]
    for calls in [*VALID, *([[*VALID[0], *VALID[3]]] if form.between is not None else [])]:
        text = _written(form, calls).removeprefix(">>>")
        assert is_whole(name, text), text[: let_through(name, text)]
        assert is_whole(name, text, is_forced=True), text[: let_through(name, text, is_forced=True)]
        assert calls_in(name, text) == calls


@pytest.mark.parametrize("name", HELD)
def test_a_call_of_another_tool_or_with_other_arguments_is_not_let_through(name: str) -> None:
    for call in INVALID:
        text = _written(FORMS[name], [call]).removeprefix(">>>")
        assert not is_whole(name, text, is_forced=True), call
        if is_whole(name, text):  # before the mark of a call, or its name, all is text
            assert call[0] not in {tool.name for tool in TOOLS}
            assert calls_in(name, text) == []


@pytest.mark.parametrize("name", [name for name in HELD if FORMS[name].between is not None])
def test_one_call_is_all_where_only_one_is_wanted(name: str) -> None:
    form = FORMS[name]
    gbnf = rules_of(name, is_one=True).begun_with(FORCED)
    matcher = Matcher(TABLES[name], gbnf, has_tokens=True)
    one = VOCABULARIES[name].tokens(_written(form, [VALID[2][0]]).removeprefix(">>>"))
    assert all(matcher.take(token) for token in one)
    assert matcher.flags == IS_ACCEPTING | IS_DONE


UNHELD: list[dict[str, Any]] = [
    {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}}},
    {"type": "string", "not": {"const": "x"}},
    {"type": "string", "pattern": "(?=a)b"},
    {"type": "string", "format": "regex"},
    {"$ref": "https://example.org/other"},
]


@pytest.mark.parametrize("name", HELD)
def test_a_schema_that_cannot_be_held_costs_its_own_tool_only(name: str) -> None:
    for unheld in UNHELD:
        loose = Tool("loose", {"type": "object", "properties": {"tags": unheld}})
        marks = {spelling.decode(): token for token, spelling in VOCABULARIES[name].shown.items()}
        rules = call_rules(CallsWanted((loose, *TOOLS), forms_behind(held(SYNTAXES[name])), marks))
        assert rules.loose == ("loose",), unheld
        gbnf = rules.begun_with(FORCED)
        for calls, is_let in (([("loose", {"any": "thing"})], True), (VALID[3], True), ([INVALID[8]], False)):
            matcher = Matcher(TABLES[name], gbnf, has_tokens=True)
            tokens = VOCABULARIES[name].tokens(_written(FORMS[name], calls).removeprefix(">>>"))
            taken = all(matcher.take(token) for token in tokens) and bool(matcher.flags & IS_ACCEPTING)
            assert taken == is_let, (unheld, calls)


@pytest.mark.parametrize("name", [name for name in HELD if (FORMS[name].between or "-").isspace()])
def test_white_space_between_calls_does_not_demand_another(name: str) -> None:
    form = FORMS[name]
    assert form.between
    text = _written(form, VALID[3]).removeprefix(">>>")
    assert is_whole(name, text.removesuffix(form.end) + form.between + form.end)


def wandered(name: str, seed: int, calls: HeldCalls) -> str:
    """What a model without a sense writes: tokens by chance, now and then the beginning of a call."""
    vocabulary, chance = VOCABULARIES[name], random.Random(f"{name} {seed}")
    follower = calls.follow(vocabulary.piece)
    matcher: Matcher | None = None
    written: list[int] = []
    bits = [
        *SYNTAXES[name].starts,
        *SYNTAXES[name].maybe,
        *forms_behind(calls.syntax),
        '{"name": "',
        "set_lamp",
        " ",
        "\n",
    ]
    bits += [
        '", "arguments": ',
        '", "parameters": ',
        "{",
        "[",
        "note(",
        "(",
        ">",
        'x"',
        "é",
        "}",
        "</think>",
        "<think>",
    ]
    queue: list[int] = []
    while len(written) < 240:
        if follower.gbnf is not None:
            matcher = matcher or Matcher(TABLES[name], follower.gbnf, has_tokens=True)
            mask = matcher.mask()
            allowed = [
                token for token in range(vocabulary.num_tokens) if token != END and mask[token >> 3] >> (token & 7) & 1
            ]
            if matcher.flags & IS_DONE or (matcher.flags & IS_ACCEPTING and chance.random() < 0.5):
                break
            closing = [token for token in allowed if token < 257 and chr(token) in "\"]})<|\n'"]
            token = chance.choice(closing if closing and chance.random() < 0.1 + len(written) / 150 else allowed)
            assert matcher.take(token)
            matcher = matcher if follower.take(token) else None
        else:
            queue = queue or vocabulary.tokens(chance.choice(bits))
            token = queue.pop(0)
            if follower.would_open(token):
                matcher = Matcher(TABLES[name], follower.gbnf or "", has_tokens=True)
                for before in follower.tokens:
                    assert matcher.take(before)
                queue = []
                continue
        written.append(token)
    return vocabulary.text(written)


@pytest.mark.parametrize("name", HELD)
def test_whatever_is_written_every_call_is_valid(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    num_calls = 0
    for seed in range(12):
        if seed > 2 and num_calls:
            break
        text = wandered(name, seed, holding(name, is_forced=seed % 2 == 1))
        for called, arguments in calls_in(name, text):
            num_calls += 1
            (tool,) = (tool for tool in TOOLS if tool.name == called)
            jsonschema.validate(arguments, tool.parameters)
    assert num_calls, "no call was ever written"


class NoRules:
    """Makes no grammar."""

    async def calls(self, wanted: CallsWanted, client: str = "") -> CallRules:
        raise TurnRejected("overloaded", "no process", retryable=True)


async def test_a_call_that_cannot_be_held_is_refused_where_it_is_demanded_and_else_only_asked_for() -> None:
    holding_of = Holding(NoRules(), AnswerReaders(SYNTAXES["hermes"], holds=True)).of
    turn = Turn("t", "c", (Message("user", "Hello"),), tools=(WireTool("lamp"),))
    assert await holding_of(turn, "", "alice") is None
    for choice in ("required", NamedTool("lamp")):
        with pytest.raises(TurnRejected, match="no process"):
            await holding_of(msgspec.structs.replace(turn, tool_choice=choice), "", "alice")
    assert await holding_of(msgspec.structs.replace(turn, tool_choice="none"), "", "alice") is None


def test_an_answer_is_read_as_held_where_a_grammar_does_hold_it() -> None:
    readers = AnswerReaders(SYNTAXES["hermes"], holds=True)
    tool = WireTool("set_lamp", "", dict(LAMP.parameters))
    turn = Turn("t", "c", (Message("user", "Light"),), tools=(tool,))
    text = '<tool_call>\n{"arguments": {"room": "hall"}, "name": "set_lamp"}\n</tool_call>'
    for is_held in (True, False):
        reader = readers.of(turn, "", is_held=is_held)
        told = joined([reader.feed(text, 1), reader.finish()])
        assert [call.name for call in reader.calls] == ([] if is_held else ["set_lamp"])
        assert bool(told.text) == is_held
