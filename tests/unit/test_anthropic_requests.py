"""Requests of Anthropic's API become turns: content blocks, tools, thinking, and what of them cannot be done."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker import codec
from broker.messages import Message, NamedTool, Tool, ToolCall, Turn
from producers.gateway.abilities import abilities_for
from producers.gateway.anthropic.requests import CountRequest, MessagesRequest
from producers.gateway.dialect import NOTHING, Asked, Offer
from producers.gateway.errors import ApiError
from producers.gateway.manners import Manners
from producers.gateway.posted import posted

HI = {"role": "user", "content": "hi"}
USE = {"type": "tool_use", "id": "toolu_1", "name": "lamp", "input": {"on": True}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "on"}
LAMP = {"name": "lamp", "description": "d", "input_schema": {"type": "object"}}
BILLING = "x-anthropic-billing-header: cc_version=2.1.101.e51; cc_entrypoint=cli; cch=a5145;"


PLAIN = Manners()


def read(manners: Manners = PLAIN, **more: Any) -> tuple[Asked, list[str]]:
    """The turn, and what is ignored of the request."""
    body: dict[str, Any] = {"model": "m", "max_tokens": 20, "messages": [HI]}
    request, ignored = posted(msgspec.json.encode(body | more), MessagesRequest)
    (asked,), left_out = manners.kept(request.asked())
    return asked, [*left_out, *ignored]


def history(*messages: dict[str, Any], **more: Any) -> tuple[Message, ...]:
    return read(messages=messages, **more)[0].history


def said(*blocks: object, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": one} if isinstance(one, str) else one for one in blocks]}


def refusal(**more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**more)
    return caught.value


# --- Messages ---


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("Be brief.", "Be brief."),
        (
            [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief.", "cache_control": {"type": "x"}}],
            "Be\nbrief.",
        ),
        (BILLING, None),
        (f"{BILLING}You are a cat.", "You are a cat."),
        ([{"type": "text", "text": BILLING}, {"type": "text", "text": "You are a cat."}], "You are a cat."),
        ("", None),
        ([], None),
        (None, None),
    ],
)
def test_a_system_prompt_is_the_first_message_and_only_that(system: Any, text: str | None) -> None:
    expected = ([Message("system", text)] if text else []) + [Message("user", "hi")]
    asked, ignored = read(system=system)
    assert asked.history == tuple(expected)
    assert ignored == (["x-anthropic-billing-header"] if BILLING in str(system) else [])


def test_a_round_of_tools_becomes_the_turns_messages() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "abc"}
    found = history(HI, said(thought, "I see.", USE, role="assistant"), said("And now?", RESULT))
    assert found[1:] == (
        Message("assistant", "I see.", (ToolCall("toolu_1", "lamp", '{"on": true}'),), None, "Hm."),
        Message("tool", "on", (), "toolu_1"),
        Message("user", "And now?"),
    )
    turn = Turn("t", "c", found)
    assert codec.decode(codec.encode(turn), Turn) == turn


def test_what_the_packages_own_messages_have_besides_is_taken() -> None:
    """As `model_dump` writes them, with nulls for all that there is not."""
    use = USE | {"caller": None, "toolset_name": None}
    text = {"type": "text", "text": "I see.", "citations": None}
    asked, ignored = read(messages=[HI, said(text, use, role="assistant"), said(RESULT)])
    assert asked.history[1] == Message("assistant", "I see.", (ToolCall("toolu_1", "lamp", '{"on": true}'),))
    assert ignored == []


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "on"),
        ({"content": [{"type": "text", "text": "lamp"}, {"type": "text", "text": "on"}]}, "lamp\non"),
        ({"is_error": True}, "error: on"),
        ({"is_error": True, "content": "Error: no lamp"}, "Error: no lamp"),
        ({"content": [], "is_error": False}, ""),
    ],
)
def test_a_result_is_told_with_a_word_for_what_failed(more: dict[str, Any], text: str) -> None:
    found = history(HI, said(USE, role="assistant"), said(RESULT | more))
    assert found[-1] == Message("tool", text, (), "toolu_1")
    nothing = {name: one for name, one in RESULT.items() if name != "content"}
    assert history(HI, said(USE, role="assistant"), said(nothing))[-1].content == ""


def test_messages_of_one_role_are_one_but_results_are_not() -> None:
    first, second = said(USE, role="assistant"), said(USE | {"id": "toolu_2"}, role="assistant")
    found = history(HI, said("a", "b"), first, second, said(RESULT, RESULT | {"tool_use_id": "toolu_2"}), said("c"))
    assert [(one.role, one.content) for one in found] == [
        ("user", "hi\na\nb"),
        ("assistant", ""),
        ("tool", "on"),
        ("tool", "on"),
        ("user", "c"),
    ]
    assert [call.id for call in found[1].tool_calls] == ["toolu_1", "toolu_2"]


def test_documents_and_search_results_of_text_are_told() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "All of it."}
    document = {"type": "document", "title": "T", "source": source, "cache_control": {"type": "ephemeral"}}
    blocks = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}}
    found = {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "y"}]}
    assert history(said(document, blocks, found, "Why?"))[0].content == "T\nAll of it.\nx\nt\ns\ny\nWhy?"


def test_the_last_message_may_be_the_assistants_and_an_empty_one_is_none() -> None:
    assert history(HI, {"role": "assistant", "content": "The answer is ("})[-1] == Message(
        "assistant", "The answer is ("
    )
    assert history(HI, {"role": "assistant", "content": " "})[-1] == Message("user", "hi")


@pytest.mark.parametrize(
    ("message", "param", "word"),
    [
        (said({"type": "image", "source": {"type": "base64", "data": ""}}), "messages[0].content[0]", "image input"),
        (
            said("x", RESULT | {"content": [{"type": "image", "source": {}}]}),
            "messages[0].content[1].content[0]",
            "image",
        ),
        (
            said({"type": "document", "source": {"type": "base64", "data": ""}}),
            "messages[0].content[0].source",
            "base64",
        ),
        (said({"type": "server_tool_use", "id": "a"}), "messages[0].content[0].type", "server_tool_use"),
        (said({"type": "text"}), "messages[0].content[0].text", "required"),
        (said(USE), "messages[0].content[0]", "role user has no tool_use"),
        (said(RESULT, role="assistant"), "messages[0].content[0]", "role assistant has no tool_result"),
        (said(RESULT, role="system"), "messages[0].content[0]", "role system has no tool_result"),
        ({"role": "user"}, "messages[0].content", "required"),
        ({"role": "tool", "content": "x"}, "messages[0].role", "must be"),
    ],
)
def test_what_no_model_can_be_told_is_refused_by_its_place(message: dict[str, Any], param: str, word: str) -> None:
    error = refusal(messages=[message])
    assert (error.status, error.param) == (400, param)
    assert word in error.message


# --- Tools ---


@pytest.mark.parametrize(
    ("choice", "expected", "is_parallel"),
    [
        (None, "auto", True),
        ({"type": "auto"}, "auto", True),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "tool", "name": "lamp"}, NamedTool("lamp"), True),
        ({"type": "none"}, "none", True),
    ],
)
def test_tools_become_the_turns(choice: Any, expected: Any, is_parallel: bool) -> None:
    typed = {"type": "custom", "name": "g", "input_schema": {}, "strict": True, "cache_control": {"type": "ephemeral"}}
    asked, ignored = read(tools=[LAMP, typed], tool_choice=choice)
    assert asked.offer == Offer((Tool("lamp", "d", {"type": "object"}), Tool("g", "", {})), expected, is_parallel)
    assert ignored == []
    assert read(tools=[])[0].offer == NOTHING


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [LAMP, {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]}, "tools[1].type"),
        ({"tools": [{"name": "lamp"}]}, "tools[0].input_schema"),
        ({"tools": [LAMP, LAMP]}, "tools[1].name"),
        ({"tools": [LAMP | {"name": "a b"}]}, "tools[0].name"),
        ({"tools": [LAMP], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [LAMP], "tool_choice": {"type": "tool", "name": "fan"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ],
)
def test_what_is_wrong_with_tools_is_told_in_the_requests_names(more: dict[str, Any], param: str) -> None:
    assert refusal(**more).param == param


def test_a_gateway_may_leave_tools_out() -> None:
    manners = Manners(leave_out_tools=True)
    asked, ignored = read(manners, tools=[LAMP], tool_choice={"type": "auto"})
    assert (asked.offer, ignored) == (NOTHING, ["tools"])
    for choice in ({"type": "any"}, {"type": "tool", "name": LAMP["name"]}):
        assert refusal(manners=manners, tools=[LAMP], tool_choice=choice).param == "tool_choice"


# --- How it is answered ---


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        (None, None),
        ({"type": "enabled", "budget_tokens": 1024}, 1024),
        ({"type": "enabled"}, "on"),
        ({"type": "adaptive", "display": "summarized"}, "on"),
        ({"type": "disabled"}, "off"),
        ({"type": "between_tools"}, "off"),
    ],
)
def test_thinking_is_the_turns(thinking: Any, expected: Any) -> None:
    assert read(thinking=thinking)[0].sampling.thinking == expected
    counted, _ = posted(msgspec.json.encode({"messages": [HI], "thinking": thinking}), CountRequest)
    assert counted.asked()[0].sampling.thinking == expected


def test_limits_stops_and_the_draw_are_mapped() -> None:
    asked, _ = read(temperature=0.5, top_p=0.9, top_k=7, stop_sequences=["\n\n", ""], max_tokens=32_000.0)
    found = asked.sampling
    assert (found.max_tokens, found.temperature, found.top_p, found.top_k) == (32_000, 0.5, 0.9, 7)
    assert found.stop == ("\n\n",)
    assert read()[0].sampling.temperature == 1.0
    assert read(temperature=0)[0].sampling.temperature == 0.0
    assert read()[0].sampling.seed != read()[0].sampling.seed
    assert read(max_tokens=10**9)[0].sampling.max_tokens == 1_000_000


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_a_schema_is_the_turns_by_either_name(name: str) -> None:
    wanted: dict[str, Any] = {"type": "json_schema", "schema": {"type": "object", "default": None}}
    more: dict[str, Any] = {name: {"format": wanted} if name == "output_config" else wanted}
    assert read(**more)[0].sampling.json_schema == wanted["schema"]


def test_what_asks_for_what_is_not_done_is_named() -> None:
    """As agents send it unasked."""
    _, ignored = read(
        metadata={"user_id": "user_1_session_2"},
        context_management={"edits": []},
        output_config={"effort": "high"},
        service_tier="auto",
        container=None,
        mcp_servers=[],
        tools=[LAMP | {"defer_loading": True, "input_examples": []}],
        messages=[HI, said({"type": "redacted_thinking", "data": "x"}, "Yes.", role="assistant"), HI],
    )
    assert sorted(ignored) == [
        "context_management",
        "mcp_servers",
        "metadata.user_id",
        "output_config.effort",
        "redacted_thinking",
        "tools[0].defer_loading",
        "tools[0].input_examples",
    ]
    with pytest.raises(ApiError, match="context_management"):
        posted(msgspec.json.encode({"messages": [HI], "context_management": {}}), MessagesRequest, is_strict=True)


def test_a_count_asks_for_the_prompt_alone() -> None:
    body = {"model": "m", "system": "s", "messages": [HI], "tools": [LAMP], "max_tokens": 9}
    request, ignored = posted(msgspec.json.encode(body), CountRequest)
    (asked,) = request.asked()
    assert asked.history == (Message("system", "s"), Message("user", "hi"))
    assert (asked.more, asked.offer.tools[0].name, request.is_streamed) == ({"kind": "prompt"}, "lamp", False)
    assert (ignored, abilities_for(asked)) == (["max_tokens"], frozenset({"prompt"}))


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
    ],
)
def test_what_is_wrong_is_named(more: dict[str, Any], param: str) -> None:
    assert refusal(**more).param == param
