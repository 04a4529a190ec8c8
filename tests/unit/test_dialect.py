from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Struct, inspect

from broker import codec
from broker.conversations import next_name
from broker.messages import Chunk, Failed, Message, Sampling, TokenLogprob
from producers.gateway.errors import ApiError
from producers.gateway.naming import conversation_of
from producers.gateway.openai.answers import AnswerObjects
from producers.gateway.openai.errors import error_body, error_of
from producers.gateway.openai.requests import ChatRequest, CompletionRequest, Request, parse

Kind = type[ChatRequest] | type[CompletionRequest]

FIRST = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
LATER = [*FIRST, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And then?"}]


def chat(messages: list[dict[str, Any]], **more: Any) -> ChatRequest:
    return parse(msgspec.json.encode({"model": "m", "messages": messages} | more), ChatRequest)


NO_MODEL: dict[str, dict[str, str]] = {"model": {"model": ""}}


def request(kind: Kind, **more: Any) -> Request:
    begin: dict[str, Any] = {"model": "m"}
    begin |= {"messages": [{"role": "user", "content": "hi"}]} if kind is ChatRequest else {"prompt": "hi"}
    return parse(msgspec.json.encode(begin | more), kind)


def test_a_conversation_is_named_by_header_then_key_then_user() -> None:
    named = chat(FIRST, prompt_cache_key="key", user="user")
    assert conversation_of(named, "header") == "header"
    assert conversation_of(named, None) == "key"
    assert conversation_of(chat(FIRST, user="user"), None) == "user"
    strange = chat(FIRST, user="a user of any name, ünd so on")
    assert conversation_of(strange, None) == conversation_of(chat(LATER, user="a user of any name, ünd so on"), None)


def test_chats_that_begin_alike_are_kept_apart_by_their_answers() -> None:
    """Without a name a turn is known by the chain of its history up to the last answer: a worker, which knows the
    answer, moves what it keeps to the name that the next turn has."""
    name = conversation_of(chat(FIRST), None)
    later, other = (
        [*FIRST, {"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]
        for said in ("So.", "Thus.")
    )
    assert len({name, conversation_of(chat(later), None), conversation_of(chat(other), None)}) == 3
    history = chat(FIRST).history
    assert next_name(name, history, "So.") == conversation_of(chat(later), None)
    assert next_name(name, history, " So.\n") == conversation_of(chat(later), None), "clients trim answers"
    assert next_name("named by hand", history, "So.") == "named by hand"
    asked_otherwise = [*later[:-1], {"role": "user", "content": "How?"}]
    assert conversation_of(chat(asked_otherwise), None) == conversation_of(chat(later), None)
    assert conversation_of(chat(FIRST, user=""), None) == name
    assert conversation_of(chat(FIRST[1:]), None) != name
    assert conversation_of(chat([FIRST[0], {"role": "user", "content": "How?"}]), None) != name


# --- Harmless values, however they are written ---


def fields(kind: type[Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in (ChatRequest, CompletionRequest) for name in [*fields(kind), "reasoning_effort", "x_y"]],
)
def test_null_is_as_good_as_nothing_in_every_field_also_of_others_apis(kind: Kind, name: str) -> None:
    if name in ("messages", "prompt"):
        with pytest.raises(ApiError, match=f"{name} is required"):
            request(kind, **{name: None})
    else:
        assert request(kind, **{name: None}) == msgspec.structs.replace(request(kind), **NO_MODEL.get(name, {}))


def test_null_is_as_good_as_nothing_within_objects_too_and_kept_in_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [None, 1.0]}}, "default": None}
    found = request(
        ChatRequest,
        stream=True,
        stream_options={"include_usage": None, "include_obfuscation": None},
        messages=[{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": None}], "audio": None}],
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": None}},
    )
    assert isinstance(found, ChatRequest)
    assert found.schema == schema
    assert found.history == (Message("user", "hi"),)


WHOLE = [
    (kind, field.name)
    for kind in (ChatRequest, CompletionRequest)
    for field in inspect.type_info(kind).fields  # type: ignore[attr-defined]
    if "IntType" in str(field.type) or field.name in ("n", "best_of")
]


@pytest.mark.parametrize(("kind", "name"), WHOLE)
def test_a_whole_number_may_be_written_as_json_likes(kind: Kind, name: str) -> None:
    more = {"logprobs": True} if name == "top_logprobs" else {}
    assert request(kind, **more, **{name: 1.0}) == request(kind, **more, **{name: 1})
    with pytest.raises(ApiError, match=f"{name}: .*not 1.5"):
        request(kind, **more, **{name: 1.5})


def test_fields_for_whole_numbers_are_found() -> None:
    """Else the test above would try none."""
    assert {"max_tokens", "max_completion_tokens", "seed", "top_k", "n", "top_logprobs"} <= {name for _, name in WHOLE}


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"top_p": 0}, {"top_k": 1, "top_p": 1.0}),
        ({"top_p": 0.0, "top_k": 40}, {"top_k": 1}),
        ({"top_p": 1}, {"top_p": 1.0}),
        ({"top_p": 1e-300}, {"top_p": 1e-300}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"temperature": 1e-40}, {"temperature": 0.0}),
        ({"min_p": 0}, {"min_p": 0.0}),
        ({"min_p": 1}, {"min_p": 1.0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"top_k": 2**31 - 1}, {"top_k": 1_000_000}),
        ({"max_tokens": -1}, {"max_tokens": 1_000_000}),
        ({"max_tokens": -1.0}, {"max_tokens": 1_000_000}),
        ({"max_tokens": 1}, {"max_tokens": 1}),
        ({"max_tokens": 2**63}, {"max_tokens": 1_000_000}),
        ({"max_tokens": 1e30}, {"max_tokens": 1_000_000}),
        ({}, {"max_tokens": 500}),
        ({"seed": -(2**63)}, {"seed": 0}),
        ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ({"seed": 2**64 + 5}, {"seed": 5}),
        ({"repeat_penalty": 100}, {"repeat_penalty": 100.0}),
        ({"stop": ""}, {"stop": ()}),
        ({"stop": []}, {"stop": ()}),
        ({"stop": ["", "a", ""]}, {"stop": ("a",)}),
        ({"stop": [""] * 20 + ["a"] * 16}, {"stop": ("a",) * 16}),
        ({"grammar": ""}, {"grammar": None}),
        ({"logit_bias": {"50256": 0}}, {}),
        ({"presence_penalty": -0.0, "frequency_penalty": 0}, {}),
        ({"stream_options": {"include_usage": False}}, {}),
        ({"stream_options": {}}, {}),
    ],
)
def test_values_at_the_edges_are_taken_and_mean_what_others_mean(
    kind: Kind, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = request(kind, **body).sampling()
    assert {name: getattr(found, name) for name in expected} == expected
    codec.decode(codec.encode(found), Sampling)  # within what the wire takes


@pytest.mark.parametrize(
    ("body", "param", "sentence"),
    [
        ({"n": 2}, "n", "n: only 1 is supported here, not 2"),
        ({"max_tokens": -2}, "max_tokens", "max_tokens: must be at least -1, not -2"),
        (
            {"max_tokens": 0},
            "max_tokens",
            "max_tokens: must be at least 1, or -1 for as many as the context holds",
        ),
        ({"max_tokens": "8"}, "max_tokens", "max_tokens: must be a whole number, not a text"),
        ({"temperature": 2.1}, "temperature", "temperature: must be at most 2, not 2.1"),
        ({"temperature": -0.1}, "temperature", "temperature: must be at least 0, not -0.1"),
        ({"temperature": True}, "temperature", "temperature: must be a number, not true"),
        ({"repeat_penalty": 0}, "repeat_penalty", "repeat_penalty: must be above 0, not 0"),
        ({"stop": ["a"] * 17}, "stop", "stop: must have at most 16 entries"),
        ({"stop": "a" * 257}, "stop", "stop: must have at most 256 characters"),
        ({"stop": {}}, "stop", "stop: must be a text or a list, not an object"),
        ({"stream": "yes"}, "stream", "stream: must be true or false, not a text"),
        ({"model": 5}, "model", "model: must be a text, not 5"),
        ({"typo": 1}, "typo", "typo is not supported here"),
        ({"y" * 5000: 1}, "y" * 59 + "…", "y" * 59 + "… is not supported here"),
        ({"messages": []}, "messages", "messages: must not be empty"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is required"),
        (
            {"messages": [{"role": "system", "content": None}, {"role": "user", "content": "hi"}]},
            "messages[0].content",
            "messages[0].content is required",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].role",
            'messages[0].role: must be "assistant", "developer", "system" or "user", not "tool"',
        ),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            "messages[0].role",
            "the last message must be the user's or a tool's",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            'messages[0].content[0].type: must be "text", not "image_url"',
        ),
        ({"metadata": {"a": 5}}, "metadata[...]", "metadata[...]: must be a text, not a whole number"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(body: dict[str, Any], param: str, sentence: str) -> None:
    with pytest.raises(ApiError) as caught:
        request(ChatRequest, **body)
    assert (caught.value.status, caught.value.param, caught.value.message) == (400, param, sentence)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"echo": True}, "echo: only false is supported here, not true"),
        ({"best_of": 3}, "best_of: only 1 is supported here, not 3"),
        ({"suffix": "x"}, 'suffix: only "" is supported here, not "x"'),
        ({"prompt": ["a", "b"]}, "prompt: must have at most 1 entry"),
        ({"prompt": ""}, "prompt: must not be empty"),
        ({"logprobs": 21}, "logprobs: must be at most 20, not 21"),
    ],
)
def test_what_is_wrong_with_a_completion_is_said_in_a_sentence(body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ApiError) as caught:
        request(CompletionRequest, **body)
    assert caught.value.message == sentence


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b"\xff",
        b'{"model": NaN}',
        b'{"model": 1e400}',
        b'{"model": "\\ud800", "metadata": 1e400}',
        b'{"model": "\\ud800", "seed": NaN}',
        b'{"seed": 1' + b"0" * 5000 + b"}",
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"messages": ' + b'{"a":' * 1200 + b"1" + b"}" * 1200 + b"}",
        "{}".encode("utf-16"),
    ],
)
@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_what_is_no_request_at_all_is_a_400(kind: Kind, body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse(body, kind)
    assert caught.value.status == 400
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("escaped", "text"),
    [("a\\ud83d", "a\ufffd"), ("\\udc00 b", "\ufffd b"), ("\\ud83d\\ud83d\\ude00", "\ufffd\U0001f600")],
)
def test_half_an_emoji_is_taken_as_a_character_that_cannot_be_told(escaped: str, text: str) -> None:
    body = '{"model": "m", "messages": [{"role": "user", "content": "' + escaped + '"}]}'
    assert parse(body.encode(), ChatRequest).history == (Message("user", text),)
    assert parse(b"\xef\xbb\xbf" + body.encode(), ChatRequest).history == (Message("user", text),)


@pytest.mark.parametrize("said", [{"content": None, "tool_calls": []}, {}, {"content": ""}, {"content": []}])
def test_an_assistant_that_said_nothing_is_taken_as_that(said: dict[str, Any]) -> None:
    between = [*FIRST, {"role": "assistant"} | said, {"role": "user", "content": "go on"}]
    assert chat(between).history[2] == Message("assistant", "")


def test_the_name_of_a_participant_is_taken_and_told_to_be_left_out() -> None:
    found = chat([{"role": "user", "name": "anna", "content": "hi"}])
    assert found.history == (Message("user", "hi"),)
    assert found.left_out == "name"
    assert chat(FIRST).left_out is None


def test_parts_of_a_message_are_lines_of_their_own() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the best book?"}]
    found = request(ChatRequest, messages=[{"role": "user", "content": parts}])
    assert found.history == (Message("user", "What is\nthe best book?"),)


# --- Answers ---


@pytest.mark.parametrize(
    ("code", "retryable", "status", "kind", "may_retry"),
    [
        ("invalid_message", False, 400, "invalid_request_error", True),
        ("invalid_template", False, 400, "invalid_request_error", True),
        ("invalid_grammar", False, 400, "invalid_request_error", True),
        ("answer_too_large", False, 400, "invalid_request_error", True),
        ("deadline", False, 408, "server_error", False),
        ("poison", False, 500, "server_error", False),
        ("overloaded", True, 503, "server_error", True),
        ("internal_error", True, 500, "server_error", True),
        ("of_a_newer_worker", False, 500, "server_error", False),
    ],
)
def test_whose_fault_a_failure_is_and_whether_to_ask_again(
    code: str, retryable: bool, status: int, kind: str, may_retry: bool
) -> None:
    found = error_of(Failed(code, "why", retryable))
    assert (found.status, found.kind, found.code, found.may_retry) == (status, kind, code, may_retry)


def test_a_full_context_is_told_in_words_and_numbers_that_clients_know() -> None:
    found = error_of(Failed("prompt_too_long", "messages: 507 tokens, and the context holds 300"))
    error = error_body(found)["error"]
    assert (found.status, error["code"], error["type"]) == (400, "context_length_exceeded", "invalid_request_error")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (507, 300)
    assert "maximum context length is 300 tokens" in error["message"]
    assert "exceeds the available context size" in error["message"]
    other = error_body(error_of(Failed("prompt_too_long", "too long")))["error"]
    assert "exceeds the available context size" in other["message"]


def test_text_offsets_count_characters_in_all_pieces_of_a_stream() -> None:
    text = " \U0001f469\u200d\U0001f680!"
    raw = text.encode()
    pieces = [raw[:4], raw[4:5], raw[5:8], raw[8:10], raw[10:12], raw[12:]]
    logprobs = [TokenLogprob(index, -1.0, (), piece) for index, piece in enumerate(pieces)]
    whole = AnswerObjects("1", "m", is_chat=False).chunk(Chunk(1, 0, text, (), tuple(logprobs)))
    expected = [0, 1, 2, 3, 3, 4]
    assert whole["choices"][0]["logprobs"]["text_offset"] == expected
    streamed = AnswerObjects("1", "m", is_chat=False)
    chunks = [streamed.chunk(Chunk(index, 0, "", (), (one,))) for index, one in enumerate(logprobs)]
    assert [chunk["choices"][0]["logprobs"]["text_offset"][0] for chunk in chunks] == expected
    anew = streamed.chunk(Chunk(9, 1, "", (), (logprobs[0],)))
    assert anew["choices"][0]["logprobs"]["text_offset"] == [0]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"\xf0\x9f", b"abc", b"d"], [0, 1, 4]),
        ([b"\xf0\x9f", b"\xe6", b"\x97\xa5", b"!"], [0, 1, 1, 2]),
        ([b"a", b"\x97", b"", b"\xe6\x97", b"\xa5b", b"c"], [0, 1, 2, 2, 2, 4]),
        ([b"\xf0\x9f", b"", b"\x8e\x89", b"x"], [0, 0, 0, 1]),
    ],
)
def test_text_offsets_are_right_behind_bytes_that_are_no_text(pieces: list[bytes], expected: list[int]) -> None:
    """The text has U+FFFD for them, which is a character as others are."""
    text = b"".join(pieces).decode("utf-8", "replace")
    logprobs = tuple(TokenLogprob(index, -1.0, (), piece) for index, piece in enumerate(pieces))
    whole = AnswerObjects("1", "m", is_chat=False).chunk(Chunk(1, 0, text, (), logprobs))
    assert whole["choices"][0]["logprobs"]["text_offset"] == expected


def test_a_refused_schema_is_told_by_the_field_of_the_request() -> None:
    failed = Failed("invalid_grammar", "sampling.json_schema: at /properties/a: pattern: unbalanced '('")
    error = error_of(failed)
    assert (error.status, error.param, error.code) == (400, "response_format.json_schema.schema", "invalid_grammar")
    assert error.message == "response_format.json_schema.schema: at /properties/a: pattern: unbalanced '('"
