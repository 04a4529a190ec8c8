"""Items of the Responses API become messages, and an answer's chunks its events."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from broker.messages import CallDelta, Chunk, Done, Message, NamedTool, Timings, TokenLogprob, ToolCall, Usage
from producers.gateway.dialect import Finished
from producers.gateway.errors import ApiError
from producers.gateway.manners import Manners
from producers.gateway.openai.response_items import items_of, messages_of
from producers.gateway.openai.response_writer import ResponseWriter
from producers.gateway.openai.responses import ResponsesRequest
from producers.gateway.posted import posted

CALL = {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "lamp", "arguments": "{}", "status": "completed"}
RESULT = {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "on"}]}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
SAID = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Well.", "annotations": []}],
}
TOOL = {"type": "function", "name": "lamp", "parameters": {"type": "object"}}


def messages(*items: dict[str, Any]) -> tuple[Message, ...]:
    return messages_of(items_of(items, []))


def request(**more: Any) -> ResponsesRequest:
    return posted(msgspec.json.encode({"input": "hi"} | more), ResponsesRequest)[0]


def test_thoughts_text_and_calls_of_one_answer_are_one_message() -> None:
    call = ToolCall("a", "lamp", "{}")
    assert messages({"role": "user", "content": "light!"}, THOUGHT, SAID, CALL, CALL | {"call_id": "b"}, RESULT) == (
        Message("user", "light!"),
        Message("assistant", "Well.", (call, ToolCall("b", "lamp", "{}")), None, "Hm."),
        Message("tool", "on", (), "a"),
    )
    assert messages(THOUGHT, CALL) == (Message("assistant", "", (call,), None, "Hm."),)
    assert messages({"role": "developer", "content": "x"}, THOUGHT) == (Message("system", "x"),)


def test_what_an_item_has_that_is_not_known_is_named_by_its_place() -> None:
    unknown: list[str] = []
    items_of([SAID | {"mood": 1}, RESULT | {"content": 2}], unknown)
    assert unknown == ["input[0].mood", "input[1].content"]
    with pytest.raises(ApiError, match=r"input\[0\]\.call_id is required"):
        messages({"type": "function_call", "name": "f", "arguments": "{}"})


@pytest.mark.parametrize(
    ("more", "names", "choice"),
    [
        ({"tools": [TOOL]}, ["lamp"], "auto"),
        ({"tools": [TOOL, {"type": "web_search"}], "tool_choice": "required"}, ["lamp"], "required"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "lamp"}}, ["lamp"], NamedTool("lamp")),
        (
            {
                "tools": [TOOL, TOOL | {"name": "fan"}],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "fan"}]},
            },
            ["fan"],
            "auto",
        ),
        ({"tools": []}, [], "auto"),
    ],
)
def test_functions_are_offered_and_chosen(more: dict[str, Any], names: list[str], choice: object) -> None:
    offer = request(**more).offer
    assert ([one.name for one in offer.tools], offer.choice) == (names, choice)


def test_an_empty_answer_that_is_sent_back_asks_for_another() -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]
    (asked,) = request(input=said).asked()
    assert asked.history == (Message("user", "hi"),)


def test_a_gateway_that_leaves_tools_out_says_so() -> None:
    body = msgspec.json.encode({"input": "hi", "tools": [TOOL]})
    manners = Manners(leave_out_tools=True)
    (found,), ignored = manners.kept(posted(body, ResponsesRequest)[0].asked())
    assert (found.offer.tools, ignored) == ((), ["tools"])
    with pytest.raises(ApiError, match="leaves tools out"):
        manners.kept(request(tools=[TOOL], tool_choice="required").asked())


def test_what_is_asked_of_the_answer_becomes_the_turns() -> None:
    schema = {"type": "object"}
    found = request(
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
        reasoning={"effort": "high", "summary": "auto"},
        max_output_tokens=7,
        include=["message.output_text.logprobs"],
    ).sampling()
    assert (found.json_schema, found.thinking, found.max_tokens, found.logprobs) == (schema, "on", 7, 0)
    assert request(reasoning={"effort": "none"}).sampling().thinking == "off"
    (asked,) = request(instructions="Be brief.").asked()
    assert asked.history == (Message("system", "Be brief."), Message("user", "hi"))


def done(reason: str = "stop", **more: Any) -> Done:
    given: dict[str, Any] = {"text": "", "tokens": ()} | more
    return Done(reason, usage=Usage(3, 1, 5, reasoning_tokens=2), timings=Timings(0, 0, 0), worker="w", **given)


def writer() -> ResponseWriter:
    return ResponseWriter("t", "m", {"store": True}, (Message("user", "hi"),), is_stored=True)


def events(written: bytes) -> list[dict[str, Any]]:
    return [json.loads(one.partition("data: ")[2]) for one in written.decode().split("\n\n") if one]


def test_thoughts_text_and_a_call_are_items_one_after_the_other() -> None:
    told, calls = writer(), (CallDelta(0, "a", "lamp"), CallDelta(0, arguments='{"on": 1}'))
    end = done("tool_calls", text="Well.", reasoning="Hm.", tool_calls=(ToolCall("a", "lamp", '{"on": 1}'),))
    chunks = [Chunk(1, 0, "", reasoning="Hm."), Chunk(2, 0, "We"), Chunk(3, 0, "ll.", calls=calls)]
    written = told.begin(0) + b"".join(told.piece(0, chunk) for chunk in chunks) + told.end(0, end)
    found = events(written + told.finish([end]))
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    begun = [event["item"]["type"] for event in found if event["type"] == "response.output_item.added"]
    ended = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert begun == [one["type"] for one in ended] == ["reasoning", "message", "function_call"]
    assert ended == found[-1]["response"]["output"]
    assert ended[0]["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert ended[1]["content"][0]["text"] == "Well."
    assert (ended[2]["call_id"], ended[2]["name"], ended[2]["arguments"]) == ("a", "lamp", '{"on": 1}')
    assert [one["type"] for one in writer().whole([Finished(end)])["output"]] == begun
    usage = found[-1]["response"]["usage"]
    assert (usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]) == (3, 1)
    assert usage["output_tokens_details"]["reasoning_tokens"] == 2


def test_an_answer_that_is_cut_in_a_call_tells_the_call_as_unfinished() -> None:
    told, calls = writer(), (CallDelta(0, "a", "lamp"), CallDelta(0, arguments='{"on'))
    end = done("length")
    found = events(told.begin(0) + told.piece(0, Chunk(1, 0, "", calls=calls)) + told.end(0, end) + told.finish([end]))
    assert (found[-1]["type"], found[-1]["response"]["status"]) == ("response.incomplete", "incomplete")
    assert [one["status"] for one in found[-1]["response"]["output"]] == ["incomplete"]


def test_what_is_kept_is_all_that_was_said_and_the_answer_as_it_was_told() -> None:
    end = done(text="Well.", reasoning="Hm.")
    kept = writer().kept(Finished(end))
    assert kept.messages == (Message("user", "hi"), Message("assistant", "Well.", (), None, "Hm."))
    assert json.loads(kept.told)["output"][1]["content"][0]["text"] == "Well."
    begun = ResponseWriter("t", "m", {}, (Message("user", "hi"), Message("assistant", "We")), is_stored=True)
    assert begun.kept(Finished(done(text="ll."))).messages[-1] == Message("assistant", "Well.")


def test_log_probabilities_go_with_the_text() -> None:
    told = writer()
    chunk = Chunk(1, 0, "a", (7,), (TokenLogprob(7, -1.0, ((7, -1.0),), b"a", (b"a",)),))
    delta = events(told.begin(0) + told.piece(0, chunk))[4]
    (logprob,) = delta["logprobs"]
    assert (logprob["token"], logprob["logprob"], logprob["top_logprobs"][0]["bytes"]) == ("a", -1.0, [97])


def test_a_stream_that_breaks_off_ends_as_failed() -> None:
    (event,) = events(writer().broken_off(ApiError(503, "gone")))
    assert event["type"] == "response.failed"
    assert event["response"]["error"] == {"code": "server_error", "message": "gone"}


def test_a_response_that_was_begun_anew_has_the_new_items_alone() -> None:
    writer = ResponseWriter("t", "m", {}, (), is_stored=False)
    end = Done("stop", "Hello", (), Usage(1, 0, 2), Timings(0, 0, 0), "w")
    writer.begin(0)
    told = writer.piece(0, Chunk(0, 0, "Hey")) + writer.piece(0, Chunk(0, 1, "Hello")) + writer.end(0, end)
    assert told.count(b"event: response.output_item.done") == 2
    last = json.loads(writer.finish([end]).decode().partition("data: ")[2])
    assert [one["content"][0]["text"] for one in last["response"]["output"]] == ["Hello"]


def test_items_are_bounded_as_a_chats_messages_are() -> None:
    """Each is read for itself, and more than once: a body of nothing but items would stop the gateway for all."""
    with pytest.raises(ApiError, match="input: must have at most 10000 entries"):
        request(input=[{"role": "user", "content": ""}] * 10_001)
    with pytest.raises(ApiError, match="tools: must have at most 1000 entries"):
        request(tools=[TOOL] * 1001)
