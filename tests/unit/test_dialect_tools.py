"""Tools in OpenAI's requests become the turn's, and a conversation is known by its calls."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker import codec
from broker.conversations import next_name
from broker.messages import Message, NamedTool, Tool, ToolCall, Turn
from producers.gateway.dialect import Asked, Offer
from producers.gateway.dialects import all_dialects
from producers.gateway.errors import ApiError
from producers.gateway.manners import Manners
from producers.gateway.openai.chat import ChatRequest
from producers.gateway.posted import posted
from tests.unit.test_dialect import CALL, HI, chat, named, request, tool


@pytest.mark.parametrize(
    ("wanted", "choice"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "f"}}, NamedTool("f")),
    ],
)
@pytest.mark.parametrize("is_parallel", [None, True, False])
def test_tools_become_the_turns(wanted: Any, choice: Any, is_parallel: bool | None) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [None]}}, "default": None}
    tools = [tool("f", description="d", parameters=schema, strict=True), tool("g", description=None)]
    found = request(ChatRequest, tools=tools, tool_choice=wanted, parallel_tool_calls=is_parallel)
    expected = (Tool("f", "d", schema), Tool("g"))
    assert found.offer == Offer(expected, choice, is_parallel is not False)
    turn = Turn("t", "c", found.history, tools=found.offer.tools, tool_choice=found.offer.choice)
    assert codec.decode(codec.encode(turn), Turn) == turn


def test_a_round_of_tools_becomes_the_turns_messages() -> None:
    said = {"role": "assistant", "content": None, "tool_calls": [CALL | {"index": 0}], "reasoning_content": "Hm."}
    result = {"role": "tool", "tool_call_id": "a", "name": "f", "content": [{"type": "text", "text": "on"}]}
    found = request(ChatRequest, messages=[HI, said, result])
    call = ToolCall("a", "f", "{}")
    assert found.history[1:] == (Message("assistant", "", (call,), None, "Hm."), Message("tool", "on", (), "a"))
    assert found.ignored == ()


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_a_results_text_may_have_any_of_the_apis_names(kind: str) -> None:
    """Open WebUI keeps results as the Responses API's parts, and sends them so."""
    said = {"role": "assistant", "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "a", "content": [{"type": kind, "text": "on"}]}
    assert request(ChatRequest, messages=[HI, said, result]).history[-1].content == "on"


@pytest.mark.parametrize(
    "empty", [{}, {"content": None}, {"content": "\n"}, {"content": "", "reasoning_content": "Hm."}]
)
def test_an_empty_answer_that_is_sent_back_asks_for_another(empty: Any) -> None:
    """As pydantic-ai does; within the chat it stays, and so does one that says or calls something."""
    said: dict[str, Any] = {"role": "assistant"} | empty
    result = {"role": "tool", "tool_call_id": "a", "content": "on"}
    called: list[Any] = [HI, {"role": "assistant", "tool_calls": [CALL]}, result]
    assert request(ChatRequest, messages=[*called, said, said]).history == chat(called).history
    assert len(request(ChatRequest, messages=[*called, said, HI]).history) == 5
    with pytest.raises(ApiError, match="an answer with calls is over"):
        request(ChatRequest, messages=[HI, called[1]])


@pytest.mark.parametrize(
    ("effort", "thinking"),
    [(None, None), ("none", "off"), ("minimal", "off"), ("low", "on"), ("medium", "on"), ("high", "on")],
)
def test_an_effort_switches_thinking(effort: str | None, thinking: str | None) -> None:
    assert request(ChatRequest, reasoning_effort=effort).sampling().thinking == thinking


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({"reasoning_budget_tokens": 64}, 64),
        ({"thinking_budget_tokens": 64.0}, 64),
        ({"thinking_budget_tokens": 64, "reasoning_budget_tokens": 0}, 0),
        ({"thinking_budget_tokens": -1}, None),
        ({"thinking_budget_tokens": -1, "reasoning_effort": "low"}, "on"),
        ({"thinking_budget_tokens": 9, "reasoning_effort": "high"}, 9),
        ({"thinking_budget_tokens": 9, "reasoning_effort": "none"}, "off"),
    ],
)
def test_a_budget_has_the_names_that_llama_server_knows(fields: dict[str, Any], thinking: object) -> None:
    assert request(ChatRequest, **fields).sampling().thinking == thinking


def test_calls_that_are_written_anew_are_the_same_to_a_conversations_name() -> None:
    def history(arguments: str) -> list[Any]:
        call = CALL | {"function": {"name": "f", "arguments": arguments}}
        result = {"role": "tool", "tool_call_id": "a", "content": "on"}
        return [HI, {"role": "assistant", "tool_calls": [call]}, result]

    name = named(chat(history('{"a": [1, "ü"]}')))
    calls = (ToolCall("a", "f", '{"a":[1,"\\u00fc"]}'),)
    first = chat([HI])
    assert next_name(named(first), first.history, "", calls) == name
    others = {named(chat(history(text))) for text in ('{"a": [2, "ü"]}', "{", "[" * 5000, "")}
    assert len(others - {name}) == 4


def test_a_conversations_calls_are_known_by_what_they_call_and_by_no_id() -> None:
    """Other APIs have none: an answer whose calls came back without their ids is gone on with."""

    def called(**more: Any) -> str:
        return named(chat([HI, {"role": "assistant", "tool_calls": [CALL | more]}, HI]))

    assert called() == called(id="b")
    assert called() != called(function={"name": "g", "arguments": "{}"})


LAMP: Any = tool("lamp")
CHAT_BODY: Any = {"messages": [{"role": "user", "content": "light!"}], "tools": [LAMP]}
RESPONSE_BODY: Any = {"input": "light!", "tools": [{"type": "function", **LAMP["function"]}]}
MESSAGE_BODY: Any = {"messages": CHAT_BODY["messages"], "tools": [{"name": "lamp", "input_schema": {"type": "object"}}]}
COUNTED = {
    "/v1/chat/completions/input_tokens": ("/v1/chat/completions", CHAT_BODY),
    "/chat/completions/input_tokens": ("/chat/completions", CHAT_BODY),
    "/apply-template": ("/v1/chat/completions", CHAT_BODY),
    "/v1/responses/input_tokens": ("/v1/responses", RESPONSE_BODY),
    "/responses/input_tokens": ("/responses", RESPONSE_BODY),
    "/v1/messages/count_tokens": ("/v1/messages", MESSAGE_BODY),
    "/messages/count_tokens": ("/messages", MESSAGE_BODY),
}
"""Where a prompt is counted, or shown, and where the same body has its turn."""


TURNED = {path: turned for one in all_dialects() for path, turned in one.turns.items()}


def kept(path: str, body: Any, *, leave_out_tools: bool) -> tuple[Asked, list[str]]:
    """The one turn that a gateway makes of a body, and what it ignores."""
    request, _ = posted(msgspec.json.encode(body), TURNED[path].kind, TURNED[path].harmless)
    (asked,), ignored = Manners(leave_out_tools=leave_out_tools).kept(request.asked())
    return asked, ignored


@pytest.mark.parametrize(("path", "turn", "body"), [(path, *of) for path, of in COUNTED.items()])
@pytest.mark.parametrize("leave_out_tools", [False, True])
def test_what_is_counted_is_what_the_turn_costs(path: str, turn: str, body: Any, leave_out_tools: bool) -> None:
    """With tools or, where a gateway leaves them out, without."""
    (counted, ignored), (answered, _) = (kept(one, body, leave_out_tools=leave_out_tools) for one in (path, turn))
    assert (counted.history, counted.offer) == (answered.history, answered.offer)
    assert (counted.sampling.thinking, counted.template_kwargs) == (
        answered.sampling.thinking,
        answered.template_kwargs,
    )
    assert [one.name for one in counted.offer.tools] == ([] if leave_out_tools else ["lamp"])
    assert ignored == (["tools"] if leave_out_tools else [])


@pytest.mark.parametrize(("path", "body"), [(path, body) for path, (_, body) in COUNTED.items()])
def test_a_count_that_demands_a_call_is_refused_as_its_turn_is_where_tools_are_left_out(path: str, body: Any) -> None:
    choice = {"type": "any"} if "messages" in path else "required"
    with pytest.raises(ApiError) as caught:
        kept(path, body | {"tool_choice": choice}, leave_out_tools=True)
    assert caught.value.param == "tool_choice"
