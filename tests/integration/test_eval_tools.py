"""`turnpike eval --tools` over the queue."""

from __future__ import annotations

import json

from tests.integration.conftest import StartWorker
from tests.terminal import Bench, output
from tests.tool_fakes import READERS, ScriptedEngine, called

REQUESTS = [
    {"tools": [{"name": "lamp", "parameters": {"type": "object"}}, {"name": "look"}]},
    {"request": "Light the hall", "calls": [{"name": "lamp", "arguments": {"room": ["hall"]}}]},
    {"request": "Light the attic", "calls": [{"name": "lamp", "arguments": {"room": ["attic"]}}]},
    {"request": "Look", "calls": [{"name": "look", "arguments": {}}]},
    {"request": "Hello"},
]


async def test_right_call_right_arguments_and_right_silence(bench: Bench, start_worker: StartWorker) -> None:
    (bench.folder / "r.jsonl").write_text("".join(json.dumps(one) + "\n" for one in REQUESTS))
    command = ("eval", "--model", "m", "--tools", "r.jsonl", "--out", "out.jsonl", "--json")
    async with start_worker(ScriptedEngine(called("lamp", room="hall")), readers=READERS):
        code, said, notes = await output(bench, *command)
        assert code == 0, notes
        again, said_again, notes = await output(bench, *command)
    facts = json.loads(said)
    assert [(one["method"], one["count"], round(one["accuracy"], 3)) for one in facts["accuracies"]] == [
        ("right call", 3, 0.667),
        ("right arguments", 3, 0.333),
        ("right silence", 1, 0.0),
    ]
    assert (facts["model"], facts["path"], facts["num_left_out"]) == ("m", "r.jsonl", 0)
    assert (again, said_again) == (0, said)
    assert "4 items, 4 of them answered before" in notes


async def test_the_shipped_requests_are_asked_by_their_name(bench: Bench, start_worker: StartWorker) -> None:
    async with start_worker(ScriptedEngine("I would rather not."), readers=READERS):
        code, said, notes = await output(bench, "eval", "--model", "m", "--tools", "shipped", "--limit", "40")
    assert code == 0, notes
    assert "right silence" in said
    assert "1.0000" in said


async def test_it_is_said_which_questions(bench: Bench) -> None:
    for more in ((), ("items.jsonl", "--tools", "shipped")):
        code, _, notes = await output(bench, "eval", "--model", "m", *more)
        assert (code, "one of the two is wanted" in notes) == (2, True), notes
