"""`Client.converse`, and `Client.ask` that runs calls: what the model calls is run, until it answers."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from broker.client import Client
from broker.errors import InvalidMessage
from broker.messages import Message, NamedTool, Sampling, Tool, ToolCall
from broker.rounds import Rounds, TooManyRounds
from tests.integration.conftest import StartWorker
from tests.integration.test_resume import collect
from tests.tool_fakes import READERS, ScriptedEngine, called
from turnpike import NoTool


def temperature(room: str) -> dict[str, float]:
    """How warm it is, in degrees Celsius."""
    if room == "attic":
        return {"celsius": 31.5}
    raise LookupError(f"there is no sensor in {room}")


class House:
    """What the calls do."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    async def open_window(self, room: str) -> None:
        """Opens a window."""
        self.opened.append(room)


ATTIC = f"<think>Let me look.</think>I look. {called('temperature', room='attic')}"
CELLAR = called("temperature", room="cellar")
OPEN = called("open_window", room="attic")


def told(rounds: Rounds) -> list[tuple[str, str]]:
    return [(one.role, one.content) for one in rounds.messages]


async def test_a_single_turn_takes_functions_too_and_runs_none(client: Client, start_worker: StartWorker) -> None:
    house = House()
    async with start_worker(ScriptedEngine(OPEN), readers=READERS):
        (call,) = (await client.ask("m", "Warm?", tools=[temperature, house.open_window])).tool_calls
    assert (call.name, call.parsed, house.opened) == ("open_window", {"room": "attic"}, [])


async def test_calls_are_run_until_the_model_answers(client: Client, start_worker: StartWorker) -> None:
    house = House()
    async with start_worker(ScriptedEngine(ATTIC, OPEN, "It is open."), readers=READERS):
        rounds = client.converse("m", "Warm?", tools=[temperature, house.open_window], conversation="c")
        turns = []
        text = ""
        async for chunk in rounds:
            text += chunk.text
            turns.append(rounds.answer.turn)
    assert text == "I look.It is open."
    assert house.opened == ["attic"]
    assert rounds.num_rounds == 3
    assert told(rounds) == [
        ("user", "Warm?"),
        ("assistant", "I look."),
        ("tool", '{"celsius":31.5}'),
        ("assistant", ""),
        ("tool", "done"),
        ("assistant", "It is open."),
    ]
    (looked,) = rounds.messages[1].tool_calls
    assert (looked.name, json.loads(looked.arguments)) == ("temperature", {"room": "attic"})
    assert rounds.messages[1].reasoning == "Let me look."
    assert rounds.messages[2].tool_call_id == looked.id
    assert {one.conversation for one in turns} == {"c"}
    assert len({one.id for one in turns}) == 3
    assert rounds.done.usage.cached_tokens > len("user: Warm?")


@pytest.mark.parametrize("answers", [("is warm.",), (f"is {CELLAR}", "Cold.")], ids=["answered", "called first"])
async def test_an_answer_that_was_begun_is_one_message_of_the_history(
    client: Client, start_worker: StartWorker, answers: tuple[str, ...]
) -> None:
    begun = [Message("user", "Warm?"), Message("assistant", "The cellar ")]
    async with start_worker(ScriptedEngine(*answers), readers=READERS):
        rounds = client.converse("m", begun, tools=[temperature], conversation="c")
        await rounds
    texts = ["is warm."] if len(answers) == 1 else ["is", "error: there is no sensor in cellar", "Cold."]
    assert told(rounds) == [
        ("user", "Warm?"),
        ("assistant", "The cellar " + texts[0]),
        *zip(("tool", "assistant"), texts[1:], strict=False),
    ]
    assert len(rounds.messages[1].tool_calls) == len(answers) - 1


async def test_the_end_can_just_be_awaited(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(ScriptedEngine(ATTIC, "Warm."), readers=READERS):
        done = await client.converse("m", "Warm?", tools=[temperature], sampling=Sampling(max_tokens=300))
    assert (done.text, done.finish_reason) == ("Warm.", "stop")


async def test_what_goes_wrong_in_a_tool_is_told_to_the_model(client: Client, start_worker: StartWorker) -> None:
    both = f"{CELLAR}\n{called('temperature', where='attic')}"
    async with start_worker(ScriptedEngine(both, "I cannot tell."), readers=READERS):
        rounds = client.converse("m", "Warm?", tools=[temperature])
        assert (await rounds).text == "I cannot tell."
    assert told(rounds)[2:4] == [
        ("tool", "error: there is no sensor in cellar"),
        ("tool", "error: there is no argument 'where', only room"),
    ]
    assert [one.tool_call_id for one in rounds.messages[2:4]] == [one.id for one in rounds.messages[1].tool_calls]


async def test_a_model_that_never_answers_is_stopped_by_the_bound(client: Client, start_worker: StartWorker) -> None:
    house = House()
    async with start_worker(ScriptedEngine(OPEN), readers=READERS):
        rounds = client.converse("m", "Warm?", tools=[house.open_window], max_rounds=3)
        with pytest.raises(TooManyRounds, match=r"3 rounds.*open_window") as caught:
            await rounds
        assert [call.name for call in caught.value.calls] == ["open_window"]
        assert house.opened == ["attic", "attic"]
        # The history is one that can be gone on with.
        assert [one.role for one in rounds.messages] == ["user", "assistant", "tool", "assistant", "tool"]
        again = client.converse("m", rounds.messages, tools=[house.open_window], max_rounds=1)
        with pytest.raises(TooManyRounds):
            await again


async def test_whoever_hears_of_a_call_may_answer_it(client: Client, start_worker: StartWorker) -> None:
    heard: list[ToolCall] = []

    async def answer(call: ToolCall) -> object:
        heard.append(call)
        return {"celsius": 12} if call.name == "elsewhere" else "error: the user declined"

    house = House()
    elsewhere = Tool("elsewhere", "How warm it is there", {"type": "object", "properties": {}})
    both = f"{OPEN}\n{called('elsewhere')}"
    async with start_worker(ScriptedEngine(both, "Well."), readers=READERS):
        rounds = client.converse("m", "Warm?", tools=[house.open_window, elsewhere], on_tool_call=answer)
        await rounds
    assert [call.name for call in heard] == ["open_window", "elsewhere"]
    assert [one.content for one in rounds.messages if one.role == "tool"] == [
        "error: the user declined",
        '{"celsius":12}',
    ]
    assert house.opened == []


async def test_what_had_to_be_called_is_called_once(client: Client, start_worker: StartWorker) -> None:
    async with start_worker(ScriptedEngine(ATTIC, "Warm."), readers=READERS):
        rounds = client.converse("m", "Warm?", tools=[temperature], tool_choice=NamedTool("temperature"))
        first = rounds.answer.turn.tool_choice
        await rounds
    assert (first, rounds.answer.turn.tool_choice) == (NamedTool("temperature"), "auto")


async def test_ask_runs_calls_too_and_gives_the_last_answer(client: Client, start_worker: StartWorker) -> None:
    house, heard = House(), list[str]()

    async def note(call: ToolCall) -> None:
        heard.append(call.name)

    tools = [temperature, house.open_window]
    async with start_worker(ScriptedEngine(ATTIC, OPEN, "It is open."), readers=READERS):
        answer = client.ask("m", "Warm?", tools=tools, tool_choice="required", on_tool_call=note, conversation="c")
        first = answer.turn
        text = "".join([chunk.text async for chunk in answer])
    assert text == "I look.It is open."
    assert (answer.done.text, answer.text, answer.num_tokens) == ("It is open.", "It is open.", len("It is open."))
    assert (heard, house.opened) == (["temperature", "open_window"], ["attic"])
    assert (first.tool_choice, answer.turn.tool_choice) == ("required", "auto")
    assert first.id != answer.turn.id
    assert {first.conversation, answer.turn.conversation} == {"c"}
    assert [one.role for one in answer.turn.messages] == ["user", "assistant", "tool", "assistant", "tool"]


async def test_ask_with_a_bound_on_rounds_runs_functions_and_keeps_the_bound(
    client: Client, start_worker: StartWorker
) -> None:
    house = House()
    async with start_worker(ScriptedEngine(OPEN), readers=READERS):
        with pytest.raises(TooManyRounds, match=r"3 rounds.*open_window"):
            await client.ask("m", "Warm?", tools=[house.open_window], max_rounds=3)
        assert house.opened == ["attic", "attic"]
        with pytest.raises(TooManyRounds, match=r"8 rounds"):
            await client.ask("m", "Warm?", tools=[Tool("open_window")], on_tool_call=lambda call: "it is stuck")


async def test_an_answer_over_rounds_is_cancelled_in_its_text_and_in_a_tool(
    client: Client, start_worker: StartWorker
) -> None:
    house = House()
    engine = ScriptedEngine(f"{'long ' * 200}{OPEN}", token_seconds=0.005)
    async with start_worker(engine, readers=READERS):
        answer = client.ask("m", "Warm?", tools=[house.open_window], max_rounds=2, sampling=Sampling(max_tokens=2000))
        async for _ in answer:
            await answer.cancel()
    assert (answer.done.finish_reason, house.opened) == ("cancelled", [])

    async def cancels() -> str:
        await answer.cancel()
        return "stopped"

    async with start_worker(ScriptedEngine(called("cancels"), "Never said."), readers=READERS):
        answer = client.ask("m", "Stop.", tools=[cancels], max_rounds=2)
        assert (await answer).finish_reason == "tool_calls"
    assert len(answer.turn.messages) == 1


async def test_cancelled_in_an_answer_nothing_is_run(client: Client, start_worker: StartWorker) -> None:
    house = House()
    engine = ScriptedEngine(f"{'long ' * 200}{OPEN}", token_seconds=0.005)
    async with start_worker(engine, readers=READERS):
        rounds = client.converse("m", "Warm?", tools=[house.open_window], sampling=Sampling(max_tokens=2000))
        async for _ in rounds:
            await rounds.cancel()
    assert (rounds.done.finish_reason, house.opened, rounds.num_rounds) == ("cancelled", [], 1)
    assert [one.role for one in rounds.messages] == ["user", "assistant"]


async def test_cancelled_in_a_tool_no_further_one_and_no_round_begins(
    client: Client, start_worker: StartWorker
) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        began.set()
        await may_end.wait()
        return "slept"

    async with start_worker(ScriptedEngine(f"{called('slow')}\n{called('slow')}"), readers=READERS):
        rounds = client.converse("m", "Sleep.", tools=[slow])
        task = asyncio.ensure_future(rounds._result())
        await began.wait()
        await rounds.cancel()
        may_end.set()
        assert (await task).finish_reason == "tool_calls"
    assert rounds.num_rounds == 1
    assert told(rounds)[2:] == [("tool", "slept"), ("tool", "error: the call was cancelled")]


async def test_a_task_that_is_cancelled_leaves_a_whole_history(client: Client, start_worker: StartWorker) -> None:
    began, was_cancelled = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    async with start_worker(ScriptedEngine(called("endless")), readers=READERS):
        rounds = client.converse("m", "Sleep.", tools=[endless])
        task = asyncio.ensure_future(collect(rounds))  # type: ignore[arg-type]
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert was_cancelled.is_set()
    assert told(rounds) == [("user", "Sleep."), ("assistant", ""), ("tool", "error: the call was cancelled")]


async def test_a_function_that_blocks_does_not_hold_the_loop(client: Client, start_worker: StartWorker) -> None:
    release = threading.Event()
    loop = asyncio.get_running_loop()

    def blocking() -> bool:
        loop.call_soon_threadsafe(release.set)  # which happens only while the loop runs
        return release.wait(30)

    async with start_worker(ScriptedEngine(called("blocking"), "Done."), readers=READERS):
        rounds = client.converse("m", "Block.", tools=[blocking])
        await rounds
    assert told(rounds)[2] == ("tool", "true")


def test_tools_that_nobody_could_run_are_refused_at_once(client_alone: Client) -> None:
    with pytest.raises(InvalidMessage, match="'lamp' is no function"):
        client_alone.converse("m", "Light.", tools=[Tool("lamp")])
    with pytest.raises(NoTool):
        client_alone.converse("m", "Light.", tools=[lambda: None])
    with pytest.raises(InvalidMessage, match="max_rounds"):
        client_alone.converse("m", "Light.", tools=[temperature], max_rounds=0)
    with pytest.raises(InvalidMessage, match="name of an earlier tool"):
        client_alone.converse("m", "Light.", tools=[temperature, temperature])
    over = Message("assistant", "Well?", (ToolCall("call-1", "temperature", "{}"),))
    with pytest.raises(InvalidMessage, match="an answer with calls is over"):
        client_alone.converse("m", [over], tools=[temperature])
    with pytest.raises(InvalidMessage, match="'lamp' is no function"):
        client_alone.ask("m", "Light.", tools=[Tool("lamp")], max_rounds=2)
    with pytest.raises(InvalidMessage, match="max_rounds"):
        client_alone.ask("m", "Light.", tools=[temperature], max_rounds=0)


@pytest.fixture
def client_alone() -> Client:
    """One without a connection."""
    from broker.connection import Address

    return Client(Address("nats://127.0.0.1:1", "nobody"))
