"""Tools on the wire: what is offered is bounded, and each piece of a call arrives once whatever happens on the way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import codec
from broker.errors import InvalidMessage
from broker.messages import (
    CallDelta,
    Chunk,
    Done,
    Message,
    NamedTool,
    Started,
    Timings,
    Tool,
    ToolCall,
    Turn,
    Usage,
)
from broker.messages.tools import grown
from broker.reassembly import Reassembly
from broker.replies import ReplyWriter, read_replies
from broker.subjects import TurnAddress
from tests.fake_jetstream import FakeJetStream

LAMP = Tool("lamp", "Switches a lamp", {"type": "object", "properties": {"on": {"type": "boolean"}}})
QUESTION = {"role": "user", "content": "Light, please."}
CALL = {"id": "c1", "name": "lamp", "arguments": '{"on": true}'}
ADDRESS = TurnAddress("m", "interactive", "c", "t")


def decoded(**fields: Any) -> Turn:
    turn = {"v": 1, "id": "t", "conversation": "c", "messages": [QUESTION]} | fields
    return codec.decode(msgspec.msgpack.encode(turn), Turn)


def nested(depth: int) -> dict[str, Any]:
    """`depth` objects in each other."""
    found: dict[str, Any] = {}
    for _ in range(depth - 1):
        found = {"properties": found}
    return found


def test_a_round_with_a_tools_result_is_a_turn() -> None:
    messages = [
        QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning": "It is dark."},
        {"role": "tool", "content": "done", "tool_call_id": "c1"},
    ]
    turn = decoded(messages=messages, tools=[msgspec.to_builtins(LAMP)], tool_choice={"name": "lamp"})
    assert turn.messages[1].tool_calls == (ToolCall("c1", "lamp", '{"on": true}'),)
    assert (turn.messages[2].tool_call_id, turn.tools, turn.tool_choice) == ("c1", (LAMP,), NamedTool("lamp"))


def test_a_turn_without_tools_is_on_the_wire_as_it_was() -> None:
    turn = Turn("t", "c", (Message("user", "hi"),))
    assert msgspec.msgpack.decode(codec.encode(turn)) == {
        "v": 1,
        "id": "t",
        "conversation": "c",
        "messages": [{"role": "user", "content": "hi"}],
    }


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": [{"name": f"t{n}"} for n in range(129)]}, "tools"),
        ({"tools": [{"name": "lamp"}, {"name": "lamp"}]}, "tools[1].name"),
        ({"tools": [{"name": "the lamp"}]}, "tools[0].name"),
        ({"tools": [{"name": ""}]}, "tools[0].name"),
        ({"tools": [{"name": "x" * 65}]}, "tools[0].name"),
        ({"tools": [{"name": "lamp", "description": "x" * 65536}]}, "tools"),
        ({"tools": [{"name": "lamp", "parameters": nested(33)}]}, "tools[0].parameters"),
        ({"tools": [{"name": "lamp", "strict": True}]}, "tools[0]"),
        ({"tools": [{"name": "lamp"}], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [{"name": "lamp"}], "tool_choice": {"name": "radio"}}, "tool_choice.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"name": "lamp"}], "raw": True}, "tools"),
        ({"tools": [{"name": "lamp"}], "sampling": {"grammar": 'root ::= "x"'}}, "sampling.grammar"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{**QUESTION, "tool_call_id": "c1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{**QUESTION, "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{**QUESTION, "reasoning": "x"}]}, "messages[0].reasoning"),
        (
            {"messages": [QUESTION, {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
            "messages[1].tool_calls",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [CALL] * 129}, QUESTION]},
            "messages[0].tool_calls",
        ),
        ({"sampling": {"thinking": "much"}}, "sampling.thinking"),
        ({"sampling": {"thinking": -1}}, "sampling.thinking"),
    ],
)
def test_what_is_wrong_or_too_much_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decoded(**fields)
    assert refused.value.field == named


def test_what_is_just_allowed_is_taken() -> None:
    tools = [{"name": f"t{n}", "parameters": nested(32)} for n in range(100)]
    assert len(decoded(tools=tools).tools) == 100
    assert len(decoded(tools=[{"name": f"t{n}"} for n in range(128)]).tools) == 128


# --- A call as it grows ---

TEXT = "I switch it on. "
THOUGHTS = "It is dark."
CALLS = (ToolCall("a1", "lamp", '{"on": true}'), ToolCall("a2", "blind", '{"open": "läßt 🙂"}'))
DONE = Done(
    *("tool_calls", TEXT, tuple(range(12)), Usage(1, 0, 12), Timings(0, 0, 0), "w1", 0, 0),
    tool_calls=CALLS,
    reasoning=THOUGHTS,
)


@st.composite
def pieces(draw: st.DrawFn) -> list[Chunk]:
    """The answer above cut anywhere, in order: thoughts, text, calls."""
    found: list[Chunk] = []

    def cuts(text: str) -> list[str]:
        at = sorted(draw(st.sets(st.integers(1, len(text) - 1), max_size=3)))
        return [text[i:j] for i, j in zip([0, *at], [*at, len(text)], strict=True)]

    found += [Chunk(0, 0, "", reasoning=piece) for piece in cuts(THOUGHTS)]
    found += [Chunk(0, 0, piece) for piece in cuts(TEXT)]
    for index, call in enumerate(CALLS):
        first, *rest = cuts(call.arguments)
        found.append(Chunk(0, 0, "", calls=(CallDelta(index, call.id, call.name, first),)))
        found += [Chunk(0, 0, "", calls=(CallDelta(index, arguments=piece),)) for piece in rest]
    return found


async def written(found: list[Chunk], server: FakeJetStream) -> list[Started | Chunk]:
    """What is stored of them, written one after the other, a token with each."""
    writer = ReplyWriter(server, ADDRESS, "w1")
    await writer.start("m")
    for number, one in enumerate(found):
        await writer.write(one.text, (number,), reasoning=one.reasoning, calls=one.calls)
    replies = [one.reply for one in await read_replies(server, "c", "t")]
    return [one for one in replies if isinstance(one, Started | Chunk)]


def read(replies: list[Started | Chunk], reader: Reassembly) -> list[Chunk]:
    return [chunk for reply in replies for chunk in reader.take(reply)]


@given(pieces(), st.data())
async def test_each_piece_is_told_once_whatever_comes_again(found: list[Chunk], data: st.DataObject) -> None:
    stored = await written(found, FakeJetStream())
    again = data.draw(st.integers(0, len(stored)))
    reader = Reassembly()
    told = read([*stored[:again], *stored], reader)
    assert "".join(one.reasoning for one in told) == THOUGHTS
    assert "".join(one.text for one in told) == TEXT
    assert grown((), (delta for one in told for delta in one.calls)) == CALLS
    assert (reader.text, reader.reasoning, reader.calls) == (TEXT, THOUGHTS, CALLS)


@given(pieces(), st.data())
async def test_the_end_makes_up_for_what_was_lost(found: list[Chunk], data: st.DataObject) -> None:
    stored = await written(found, FakeJetStream())
    lost = data.draw(st.integers(1, len(stored)))
    reader = Reassembly()
    told = read([*stored[:lost], *stored[lost + 1 :]], reader)
    told += reader.rest(DONE)
    assert {one.attempt for one in told} == {0}
    assert "".join(one.reasoning for one in told) == THOUGHTS
    assert "".join(one.text for one in told) == TEXT
    assert grown((), (delta for one in told for delta in one.calls)) == CALLS


@given(pieces(), st.data())
async def test_another_worker_goes_on_within_a_call(found: list[Chunk], data: st.DataObject) -> None:
    server = FakeJetStream()
    killed = data.draw(st.integers(0, len(found)))
    first = await written(found[:killed], server)
    second = ReplyWriter(server, ADDRESS, "w2")
    await second.start("m")
    assert second.resumed_text == "".join(one.text for one in found[:killed])
    for one in found[killed:]:
        await second.write(one.text, (99,), reasoning=one.reasoning, calls=one.calls)
    stored = [one.reply for one in await read_replies(server, "c", "t")]
    reader = Reassembly()
    read(first, reader)
    read([one for one in stored[len(first) :] if isinstance(one, Started | Chunk)], reader)
    assert (reader.attempt, reader.text, reader.reasoning, reader.calls) == (0, TEXT, THOUGHTS, CALLS)


def of(call: ToolCall, index: int = 0) -> CallDelta:
    """The whole call in one delta."""
    return CallDelta(index, call.id, call.name, call.arguments)


def test_an_end_with_another_call_of_that_name_is_all_of_the_answer() -> None:
    reader = Reassembly()
    read([Started(0, 0, "w1"), Chunk(1, 0, "", (1,), calls=(of(CALLS[0]),))], reader)
    other = (msgspec.structs.replace(CALLS[0], arguments='{"on": false}'),)
    told = reader.rest(msgspec.structs.replace(DONE, text="", reasoning="", tool_calls=other))
    assert [one.attempt for one in told] == [1], "whoever reads drops what they had"
    assert reader.calls == other


def test_a_call_that_turned_out_to_be_none_is_in_no_end() -> None:
    reader = Reassembly()
    begun = CallDelta(1, "a9", "radio", '{"stat')
    read([Started(0, 0, "w1"), Chunk(1, 0, "", (1,), calls=(of(CALLS[0]), begun))], reader)
    end = msgspec.structs.replace(
        DONE, text='<tool_call>{"stat', reasoning="", finish_reason="length", tool_calls=CALLS
    )
    told = reader.rest(end)
    assert [(one.attempt, one.text) for one in told] == [(0, '<tool_call>{"stat')]
    assert told[0].calls == (of(CALLS[1], 2),), "the index of what was begun is not used again"
    assert reader.calls == CALLS


async def test_a_call_that_is_too_large_for_a_message_comes_in_several() -> None:
    server = FakeJetStream()
    writer = ReplyWriter(server, ADDRESS, "w1")
    await writer.start()
    arguments = '{"text": "' + "y" * 3_000_000 + '"}'
    await writer.write("", (1,), calls=(CallDelta(0, "a1", "note", arguments),))
    stored = [one.reply for one in await read_replies(server, "c", "t")]
    reader = Reassembly()
    read([one for one in stored if isinstance(one, Started | Chunk)], reader)
    assert len(stored) > 4
    assert reader.calls == (ToolCall("a1", "note", arguments),)
