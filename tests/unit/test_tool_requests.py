"""`turnpike eval --tools`: requests from files, and what an answer's calls are worth."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from broker.messages import ToolCall
from producers.evaluate.items import EvalError
from producers.evaluate.run import TOOLS
from producers.evaluate.tool_calls import SHIPPED, Called, ToolItem, Wanted, figures, judge, read_tool_items

OFFER = {"tools": [{"name": "lamp", "parameters": {"type": "object"}}, {"name": "look"}], "system": "Be brief."}
LAMP = Wanted("lamp", {"room": ["hall", "corridor"], "percent": [100, None]})


def answered(*calls: tuple[str, str]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(str(number), name, arguments) for number, (name, arguments) in enumerate(calls))


def judged(wanted: tuple[Wanted, ...], *calls: tuple[str, str]) -> tuple[bool, bool]:
    found = judge(ToolItem(1, "?", (), wanted), answered(*calls))
    return found.is_right_call, found.are_right_arguments


def test_the_shipped_requests_are_forty_over_six_tools() -> None:
    left_out: list[EvalError] = []
    items = read_tool_items(SHIPPED, left_out)
    assert (len(items), left_out) == (40, [])
    assert {len(one.tools) for one in items} == {6}
    assert len({one.request for one in items}) == 40
    assert sum(not one.calls for one in items) == 12
    assert {call.name for one in items for call in one.calls} == {tool.name for tool in items[0].tools}
    for item in items:
        schemas = {tool.name: tool.parameters or {} for tool in item.tools}
        for call in item.calls:  # what is right is something that the schema allows
            assert (
                set(schemas[call.name]["required"]) <= call.arguments.keys() <= schemas[call.name]["properties"].keys()
            )
            for name, right in call.arguments.items():
                allowed = schemas[call.name]["properties"][name].get("enum")
                assert allowed is None or set(right) <= set(allowed)


def test_the_right_call_with_the_right_arguments() -> None:
    for arguments in (
        '{"room": "hall", "percent": 100}',
        '{"room": "Hall "}',
        '{"percent": 100.0, "room": "corridor"}',
        '{"room": "hall", "percent": null}',
    ):
        assert judged((LAMP,), ("lamp", arguments)) == (True, True), arguments
    for arguments in ('{"room": "attic"}', '{"percent": 100}', '{"room": "hall", "colour": 1}', '{"ro', "[]", '"hall"'):
        assert judged((LAMP,), ("lamp", arguments)) == (True, False), arguments
    assert judged((Wanted("lamp", {"on": [True]}),), ("lamp", '{"on": 1}')) == (True, False)
    assert judged((Wanted("look"),), ("look", "")) == (True, True)


def test_calls_in_any_order_and_none_too_many() -> None:
    two = (LAMP, Wanted("look"))
    assert judged(two, ("look", "{}"), ("lamp", '{"room": "hall"}')) == (True, True)
    assert judged(two, ("lamp", '{"room": "hall"}')) == (False, False)
    assert judged((LAMP,), ("lamp", '{"room": "hall"}'), ("lamp", '{"room": "hall"}')) == (False, False)
    assert judged((LAMP, LAMP), ("lamp", '{"room": "hall"}'), ("lamp", '{"room": "attic"}')) == (True, False)
    assert judged((), ("look", "{}")) == (False, False)
    assert judged(()) == (True, True)


def test_the_figures_are_of_those_that_want_calls_and_of_the_others() -> None:
    found = figures(
        [
            Called(number, *judged, ())
            for number, judged in enumerate(
                [
                    (True, True, True),
                    (True, True, False),
                    (True, False, False),
                    (False, True, True),
                    (False, False, False),
                ]
            )
        ]
    )
    assert [(one.method, one.count, one.accuracy) for one in found] == [
        ("right call", 3, 2 / 3),
        ("right arguments", 3, 1 / 3),
        ("right silence", 2, 1 / 2),
    ]
    assert figures([]) == []


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"request": "Light", "calls": [{"name": "bell", "arguments": {}}]}, "no tool is called 'bell'"),
        ({"request": 3, "calls": []}, "is no request"),
        ({"request": "Light", "calls": [{"name": "lamp", "arguments": {"room": "hall"}}]}, "is no request"),
        ([1], "is no request"),
    ],
)
def test_a_bad_request_costs_one_row(tmp_path: Path, row: object, problem: str) -> None:
    path = tmp_path / "r.jsonl"
    good = {"request": "Light the hall", "calls": [{"name": "lamp", "arguments": {"room": ["hall"]}}]}
    path.write_text("".join(json.dumps(one) + "\n" for one in (OFFER, row, good)))
    left_out: list[EvalError] = []
    (item,) = read_tool_items(path, left_out)
    assert (item.number, item.system, [one.name for one in item.tools]) == (3, "Be brief.", ["lamp", "look"])
    (bad,) = left_out
    assert (bad.line, problem in bad.reason) == (2, True), bad


def test_requests_without_tools_above_them_are_none(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    twice = {"tools": [{"name": "a"}, {"name": "a"}]}
    path.write_text("".join(json.dumps(one) + "\n" for one in (OFFER, twice, {"request": "Light"})))
    with pytest.raises(EvalError, match=r"2 rows are left out: .*name of an earlier tool; .*no row with tools"):
        read_tool_items(path)


def test_an_outcome_is_read_back_from_its_line() -> None:
    one = Called(7, True, True, False, (ToolCall("1", "lamp", '{"room": "ä"}'),), "So be it.")
    assert TOOLS.read(msgspec.json.encode(one)) == one
    assert msgspec.json.encode(one).startswith(b'{"number":')
