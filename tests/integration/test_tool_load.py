"""Load with tools: a model's calls have the results that the data has for them, and each is a turn."""

from __future__ import annotations

from broker.client import Client
from broker.messages import Message, Tool, ToolCall
from producers.data.datasets import Conversation
from producers.load.run import run_load
from producers.records.figures import summarize
from producers.settings import LoadSettings
from tests.integration.conftest import StartWorker
from tests.tool_fakes import READERS, ScriptedEngine, called

TALK = Conversation(
    "lamps",
    (
        Message("user", "Light the hall"),
        Message("assistant", "", (ToolCall("c1", "lamp", '{"room": "hall"}'),)),
        Message("tool", "it is on", tool_call_id="c1"),
        Message("assistant", "The hall is lit."),
        Message("user", "Thank you"),
    ),
    (Tool("lamp", "Switches a lamp"),),
)


async def test_calls_are_answered_by_what_is_recorded_and_counted(client: Client, start_worker: StartWorker) -> None:
    engine = ScriptedEngine(called("lamp", room="hall"), f"Done. {called('bell')}", called("lamp", room="attic"), "No.")
    async with start_worker(engine, readers=READERS):
        found = await run_load(client, LoadSettings(model="m", think="fixed:0.2", concurrency=1), [TALK])
        prompts = engine.prompts()
    assert [(turn.index, turn.round, turn.num_calls, turn.num_broken_calls) for turn in found] == [
        (0, 0, 1, 0),
        (1, 1, 0, 1),
        (2, 0, 1, 0),
        (3, 1, 0, 0),
    ]
    assert [turn.outcome for turn in found] == ["tool_calls", "stop", "tool_calls", "stop"]
    assert any(text.count("tool: it is on\n") == 2 and text.endswith("assistant: No.") for text in prompts), prompts
    assert found[2].sent_at - found[1].ended_at >= 0.2 > found[1].sent_at - found[0].ended_at
    summary = summarize(found, 1.0)
    assert (summary.num_calls, summary.num_broken_calls, summary.num_rounds) == (2, 1, 2)


async def test_a_recorded_history_has_its_own_calls_and_results(client: Client, start_worker: StartWorker) -> None:
    engine = ScriptedEngine(called("lamp", room="attic"))
    async with start_worker(engine, readers=READERS):
        found = await run_load(client, LoadSettings(model="m", history="dataset", concurrency=1), [TALK])
        prompts = engine.prompts()
    assert [(turn.round, turn.num_calls) for turn in found] == [(0, 1), (1, 1), (0, 1)]
    assert any("tool: it is on\nassistant: The hall is lit.\nuser: Thank you\nassistant: " in text for text in prompts)


async def test_a_model_that_calls_for_ever_is_asked_the_next_question(
    client: Client, start_worker: StartWorker
) -> None:
    async with start_worker(ScriptedEngine(called("lamp")), readers=READERS):
        found = await run_load(client, LoadSettings(model="m", concurrency=1), [TALK])
    assert [turn.round for turn in found] == [*range(8), *range(8)]
