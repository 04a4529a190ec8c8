"""Conversations with tools: rows as others have them, and the shipped ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from broker.messages import ToolCall
from producers.data.datasets import Conversation, DatasetError, load_conversations
from producers.load.generator import Progress
from producers.load.resuming import resume
from producers.load.run import header
from producers.load.selection import Selection
from producers.records.files import Recording, read_run
from producers.records.lines import TurnRecord
from producers.settings import LoadSettings

LAMP: dict[str, Any] = {"name": "lamp", "description": "Switches a lamp", "parameters": {"type": "object"}}
CALL: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "lamp", "arguments": '{"room": "hall"}'}}
ROUND: list[dict[str, Any]] = [
    {"role": "user", "content": "Light the hall"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "on"},
    {"role": "assistant", "content": "It is on."},
    {"role": "user", "content": "Thank you"},
]


def read(path: Path, *rows: object, left_out: list[DatasetError] | None = None) -> list[Conversation]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_conversations(path, min_turns=1, left_out=left_out)


def test_the_shipped_conversations_call_what_they_offer_by_its_schema() -> None:
    left_out: list[DatasetError] = []
    found = load_conversations("tools", left_out=left_out)
    assert (len(found), left_out) == (12, [])
    assert min(one.num_user_turns for one in found) >= 3
    called = []
    for one in found:
        schemas = {tool.name: tool.parameters for tool in one.tools}
        for call in (call for message in one.messages for call in message.tool_calls):
            jsonschema.validate(call.parsed, schemas[call.name])
            called.append(call.name)
    assert set(called) == set(schemas)
    assert any(len(message.tool_calls) > 1 for one in found for message in one.messages)


def test_tools_are_read_as_openais_or_flat_and_hold_for_the_rows_below(tmp_path: Path) -> None:
    strict = {"type": "function", "function": {**LAMP, "strict": True}}
    flat = {"id": "c1", "name": "lamp", "arguments": {"room": "hall"}}
    own = [ROUND[0], ROUND[1] | {"tool_calls": [flat]}, *ROUND[2:]]
    first, second, third = read(
        tmp_path / "r.jsonl",
        {"messages": ROUND},
        {"tools": [LAMP]},
        {"messages": ROUND},
        {"messages": own, "tools": [strict]},
    )
    assert (first.tools, [tool.name for tool in second.tools], third.tools) == ((), ["lamp"], second.tools)
    assert third.messages == second.messages == first.messages
    assert second.messages[1].tool_calls == (ToolCall("c1", "lamp", '{"room": "hall"}'),)
    assert [second.is_question(index) for index in range(5)] == [True, False, True, False, True]
    assert [second.num_questions(most, with_results=True) for most in (None, 1)] == [3, 2]
    assert [second.num_questions(most, with_results=False) for most in (None, 1)] == [2, 1]


def test_a_call_has_the_result_that_is_recorded_for_it_or_for_its_tool(tmp_path: Path) -> None:
    other = {"id": "c2", "name": "lamp", "arguments": '{ "room": "attic" }'}
    two = [
        ROUND[0],
        ROUND[1] | {"tool_calls": [CALL, other]},
        ROUND[2],
        {"role": "tool", "tool_call_id": "c2", "content": "broken"},
    ]
    (found,) = read(tmp_path / "r.jsonl", {"messages": two, "tools": [LAMP]})
    for arguments, result in (('{"room":"attic"}', "broken"), ('{"room": "cellar"}', "on"), ("nonsense", "on")):
        assert found.result_of(ToolCall("x", "lamp", arguments)) == result
    assert found.result_of(ToolCall("x", "bell", "{}")).startswith("error: bell")
    assert [found.is_question(index) for index in range(4)] == [True, False, False, True]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tools": [{"name": "a b"}]}, "its tools: "),
        ({"tools": [LAMP, LAMP]}, "name of an earlier tool"),
        ({"tools": "lamp"}, "its tools are no list"),
        ({"messages": [*ROUND[:2], *ROUND[3:]]}, "message 3 comes before the result of the call 'c1'"),
        ({"messages": ROUND[:2]}, "the call 'c1' has no result"),
        ({"messages": [ROUND[0], *ROUND[2:]]}, "message 2 is the result of no call"),
        ({"messages": [ROUND[0], ROUND[1] | {"tool_calls": [{"id": 3, "name": "lamp"}]}]}, "a call that is none"),
        ({"messages": [ROUND[0], ROUND[1] | {"tool_calls": ["lamp"]}]}, "no object"),
        ({"messages": [ROUND[0], ROUND[1] | {"tool_calls": {}}]}, "no list"),
        ({"messages": [*ROUND[:2], ROUND[2] | {"tool_call_id": 7}]}, "no tool_call_id"),
    ],
)
def test_a_bad_row_costs_one_row(tmp_path: Path, row: object, problem: str) -> None:
    left_out: list[DatasetError] = []
    (found,) = read(tmp_path / "r.jsonl", row, {"messages": ROUND}, left_out=left_out)
    (bad,) = left_out
    assert (found.id, found.tools, bad.line, problem in bad.reason) == ("2", (), 1, True), bad


@pytest.mark.parametrize(
    ("history", "rounds", "is_whole"),
    [
        ("generated", [(0, 1), (1, 0), (0, 0)], True),
        ("generated", [(0, 0), (0, 1), (1, 0)], True),
        ("generated", [(0, 1), (1, 0)], False),
        ("generated", [(0, 1), (1, 0), (0, 1)], False),
        ("generated", [(0, 0), *((round, 1) for round in range(8))], True),
        ("dataset", [(0, 1), (1, 0), (0, 1)], True),
        ("dataset", [(0, 1), (1, 0)], False),
    ],
)
def test_a_conversation_with_open_calls_is_begun_again(
    tmp_path: Path, history: Any, rounds: list[tuple[int, int]], is_whole: bool
) -> None:
    """`rounds` are (round, calls) of its turns."""
    (one,) = read(tmp_path / "r.jsonl", {"messages": ROUND, "tools": [LAMP]})
    options = LoadSettings(model="m", run="r", history=history)
    selection = Selection([one], 1, tmp_path / "r.jsonl")
    with Recording(tmp_path / "out.jsonl", header(options, selection, [])) as recording:
        for index, (round_, calls) in enumerate(rounds):
            recording.write(
                TurnRecord(index, 0, index, f"t{index}", "m", 0.0, 1.0, "stop", round=round_, num_calls=calls)
            )
    run = read_run(tmp_path / "out.jsonl")
    recording, again = resume(tmp_path / "out.jsonl", run, options, selection, Progress())
    with recording:
        pass
    assert again["skip"] == (frozenset({0}) if is_whole else frozenset())
