"""Answers in the words of Anthropic's API: content blocks, whole and as events in their order, and its errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.messages import CallDelta, Chunk, Done, Failed, Started, Timings, ToolCall, Usage
from producers.gateway.anthropic.answers import CountWriter, Writer
from producers.gateway.anthropic.errors import error_body, error_of
from producers.gateway.anthropic.listing import page
from producers.gateway.dialect import Finished
from producers.gateway.errors import ApiError, no_worker
from producers.gateway.models import Listed

USAGE = Usage(prompt_tokens=30, cached_tokens=20, completion_tokens=9, reasoning_tokens=4)


def done(text: str = "", reason: str = "stop", **more: Any) -> Done:
    return Done(reason, text, (), USAGE, Timings(0, 0, 0), "w", **more)


def whole(end: Done, **options: Any) -> dict[str, Any]:
    return Writer("t1", "m", **options).whole([Finished(end)])


def events(stream: bytes) -> list[dict[str, Any]]:
    """The data of a stream's events, each under its own name."""
    found = []
    for event in stream.decode().split("\n\n"):
        if event and not event.startswith(":"):
            name, data = event.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


def streamed(*chunks: Chunk, end: Done, **options: Any) -> list[dict[str, Any]]:
    """What comes behind the begin."""
    writer = Writer("t1", "m", **options)
    found = b"".join(writer.piece(0, chunk) for chunk in chunks) + writer.end(0, end) + writer.finish([end])
    return events(found)


def blocks(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A stream put together; each block is begun once, in order, and ended before the next begins."""
    found: list[dict[str, Any]] = []
    is_open = False
    for event in told:
        match event["type"]:
            case "content_block_start":
                assert (is_open, event["index"]) == (False, len(found))
                is_open, block = True, event["content_block"] | {"json": ""}
                found.append(block)
            case "content_block_delta":
                assert (is_open, event["index"]) == (True, len(found) - 1)
                kind = event["delta"]["type"]
                name = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}.get(kind)
                found[-1][name or "json"] += event["delta"][name or "partial_json"]
            case "content_block_stop":
                assert (is_open, event["index"]) == (True, len(found) - 1)
                is_open = False
    for block in found:
        arguments = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(arguments or "{}")
    assert not is_open
    return found


def test_a_whole_message_has_a_block_for_each_kind_of_what_it_says() -> None:
    calls = (ToolCall("a", "lamp", '{"on": true}'), ToolCall("b", "time", ""))
    found = whole(done("I see.", "tool_calls", reasoning="Hm.", tool_calls=calls))
    assert found == {
        "id": "msg_t1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "t1"},
            {"type": "text", "text": "I see."},
            {"type": "tool_use", "id": "a", "name": "lamp", "input": {"on": True}},
            {"type": "tool_use", "id": "b", "name": "time", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 20,
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 4},
        },
    }


@pytest.mark.parametrize(
    ("end", "reason", "sequence"),
    [
        (done("x"), "end_turn", None),
        (done("x", stop="\n"), "stop_sequence", "\n"),
        (done("x", "length"), "max_tokens", None),
        (done("x", "cancelled"), "end_turn", None),
        (done("x", "of a later release"), "end_turn", None),
    ],
)
def test_why_it_ended_is_told_in_the_apis_words(end: Done, reason: str, sequence: str | None) -> None:
    assert (whole(end)["stop_reason"], whole(end)["stop_sequence"]) == (reason, sequence)
    ended = streamed(Chunk(1, 0, "x"), end=end)[-2]
    assert ended["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
    assert ended["usage"]["input_tokens"] == 10


def test_a_stream_begins_with_the_message_and_the_prompts_tokens() -> None:
    writer = Writer("t1", "auto")
    writer.goes_to(0, "t2", "m")
    writer.begun_with(0, Started(0, 0, "w", prompt_tokens=30))
    begun, ping = events(writer.begin(0))
    assert ping == {"type": "ping"}
    message = begun["message"]
    assert (message["id"], message["model"], message["content"], message["stop_reason"]) == ("msg_t2", "m", [], None)
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (30, 0)


def test_a_stream_opens_and_closes_a_block_for_each_kind_of_what_is_said() -> None:
    calls = (ToolCall("a", "lamp", '{"on": true}'), ToolCall("b", "time", ""))
    end = done("I see.", "tool_calls", reasoning="Hm. Yes.", tool_calls=calls)
    told = streamed(
        Chunk(1, 0, "", (1,)),
        Chunk(2, 0, "", reasoning="Hm."),
        Chunk(3, 0, "\n\n", reasoning=" Yes."),
        Chunk(4, 0, "I "),
        Chunk(5, 0, "see.", calls=(CallDelta(0, "a", "lamp", '{"on"'),)),
        Chunk(6, 0, "", calls=(CallDelta(0, arguments=": true}", offset=5), CallDelta(1, "b", "time"))),
        Chunk(7, 0, "\n"),
        end=end,
    )
    assert blocks(told) == [
        {"type": "thinking", "thinking": "Hm. Yes.", "signature": "t1"},
        {"type": "text", "text": "\n\nI see."},
        {"type": "tool_use", "id": "a", "name": "lamp", "input": {"on": True}},
        {"type": "tool_use", "id": "b", "name": "time", "input": {}},
    ]
    assert [one["type"] for one in told[-2:]] == ["message_delta", "message_stop"]


def test_blanks_alone_are_no_block_before_a_call_and_are_told_where_there_is_nothing_else() -> None:
    call = Chunk(2, 0, "", calls=(CallDelta(0, "a", "lamp", "{}"),))
    end = done("\n", "tool_calls", tool_calls=(ToolCall("a", "lamp", "{}"),))
    assert [one["type"] for one in blocks(streamed(Chunk(1, 0, "\n"), call, end=end))] == ["tool_use"]
    assert [one["type"] for one in whole(end)["content"]] == ["tool_use"]
    for text in (" ", "\n"):
        blank = [{"type": "text", "text": text}]
        assert blocks(streamed(Chunk(1, 0, text), end=done(text))) == whole(done(text))["content"] == blank
    assert blocks(streamed(end=done())) == whole(done())["content"] == []


def test_a_call_that_breaks_off_is_told_with_its_last_arguments_before_the_text_that_it_became() -> None:
    told = streamed(
        Chunk(1, 0, "", calls=(CallDelta(0, "a", "lamp", '{"on"'),)),
        Chunk(2, 0, '{"on": ', calls=(CallDelta(0, arguments=": ", offset=5),)),
        end=done('{"on": ', "length"),
    )
    started = [one["content_block"] for one in told if one["type"] == "content_block_start"]
    assert [one["type"] for one in started] == ["tool_use", "text"]
    deltas = [one["delta"] for one in told if one["type"] == "content_block_delta"]
    assert "".join(one.get("partial_json", "") for one in deltas) == '{"on": '


def test_thoughts_that_are_not_to_be_told_leave_a_block_that_says_so() -> None:
    hidden = [{"type": "thinking", "thinking": "", "signature": "t1"}, {"type": "text", "text": "Yes."}]
    end = done("Yes.", reasoning="Hm.")
    chunks = (Chunk(1, 0, "", reasoning="Hm."), Chunk(2, 0, "Yes."))
    assert blocks(streamed(*chunks, end=end, shows_thoughts=False)) == hidden
    assert whole(end, shows_thoughts=False)["content"] == hidden


def test_an_answer_that_is_begun_anew_goes_on_in_blocks_of_its_own() -> None:
    """Who reads comments was told to drop what it has."""
    call = (CallDelta(0, "a", "lamp", '{"on": true}'),)
    end = done("", "tool_calls", tool_calls=(ToolCall("a", "lamp", '{"on": true}'),))
    told = blocks(streamed(Chunk(1, 0, "", calls=call), Chunk(3, 1, "", calls=call), end=end))
    assert [(one["name"], one["input"]) for one in told] == [("lamp", {"on": True})] * 2


def test_details_and_comments_are_no_events() -> None:
    writer = Writer("t1", "m")
    assert writer.comment("turnpike {}") == b": turnpike {}\n\n"
    assert events(writer.finish([done()], writer.comment("x"))) == [{"type": "message_stop"}]


def test_a_count_is_the_prompts_tokens() -> None:
    assert CountWriter().whole([Finished(done())]) == {"input_tokens": 30}


# --- Errors ---


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ApiError(400, "x"), "invalid_request_error"),
        (ApiError(401, "x"), "authentication_error"),
        (ApiError(404, "x"), "not_found_error"),
        (ApiError(405, "x"), "invalid_request_error"),
        (ApiError(408, "x"), "timeout_error"),
        (ApiError(413, "x"), "request_too_large"),
        (ApiError(429, "x"), "rate_limit_error"),
        (ApiError(500, "x"), "api_error"),
        (ApiError(502, "x"), "api_error"),
        (no_worker("m"), "overloaded_error"),
    ],
)
def test_an_error_has_the_apis_type(error: ApiError, kind: str) -> None:
    body = error_body(error)
    assert (body["type"], body["error"]["type"], body["error"]["message"]) == ("error", kind, error.message)
    assert body["error"].get("code") == error.code
    assert events(Writer("t", "m").broken_off(error)) == [body]


def test_a_full_context_is_told_in_words_that_clients_know() -> None:
    found = error_of(Failed("prompt_too_long", "messages: 507 tokens, and the context holds 300"))
    assert (found.status, found.message) == (400, "prompt is too long: 507 tokens > 300 maximum")
    assert error_body(found)["error"]["n_ctx"] == 300
    assert error_of(Failed("prompt_too_long", "messages: too long")).status == 400


def test_a_refused_schema_is_told_by_the_field_of_the_request() -> None:
    error = error_of(Failed("invalid_grammar", "sampling.json_schema: at /properties/a: pattern: no"))
    assert error.message == "output_config.format.schema: at /properties/a: pattern: no"
    assert (error.status, error_body(error)["error"]["type"]) == (400, "invalid_request_error")


# --- Models ---

MODELS = [Listed(name, 86_400) for name in "abcde"]


@pytest.mark.parametrize(
    ("query", "names", "has_more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "2", "after_id": "b"}, "cd", True),
        ({"limit": "2", "after_id": "c"}, "de", False),
        ({"limit": "2", "before_id": "d"}, "bc", True),
        ({"limit": "9", "before_id": "c"}, "ab", False),
        ({"after_id": "e"}, "", False),
    ],
)
def test_models_come_in_pages(query: dict[str, str], names: str, has_more: bool) -> None:
    found = page(MODELS, query)
    assert ("".join(one["id"] for one in found["data"]), found["has_more"]) == (names, has_more)
    assert (found["first_id"], found["last_id"]) == ((names[0], names[-1]) if names else (None, None))
    assert all((one["type"], one["created_at"]) == ("model", "1970-01-02T00:00:00Z") for one in found["data"])


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"limit": "²"}, {"after_id": "z"}]
)
def test_a_page_that_there_is_not_is_refused_by_its_field(query: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        page(MODELS, query)
    assert (caught.value.status, [caught.value.param]) == (400, [*query])
