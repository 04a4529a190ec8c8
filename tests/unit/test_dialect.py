from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec import Struct, inspect

from broker import codec
from broker.conversations import next_name
from broker.messages import Message, Sampling
from producers.gateway.errors import ApiError
from producers.gateway.manners import Manners
from producers.gateway.naming import conversation_of
from producers.gateway.openai.chat import ChatRequest
from producers.gateway.openai.completions import CompletionRequest
from producers.gateway.posted import posted

HI = {"role": "user", "content": "hi"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth > 1 else {}


Kind = type[ChatRequest] | type[CompletionRequest]

FIRST = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
LATER = [*FIRST, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And then?"}]


def chat(messages: Sequence[dict[str, Any]], **more: Any) -> ChatRequest:
    return posted(msgspec.json.encode({"model": "m", "messages": messages} | more), ChatRequest)[0]


def named(chat: ChatRequest, header: str | None = None) -> str:
    return conversation_of(header or chat.conversation, chat.history)


NO_MODEL: dict[str, dict[str, str]] = {"model": {"model": ""}}


def request[T: ChatRequest | CompletionRequest](kind: type[T], **more: Any) -> T:
    begin: dict[str, Any] = {"model": "m"}
    begin |= {"messages": [{"role": "user", "content": "hi"}]} if kind is ChatRequest else {"prompt": "hi"}
    found, _ = posted(msgspec.json.encode(begin | more), kind)
    Manners().kept(found.asked())
    return found


def test_a_conversation_is_named_by_header_then_key_then_user() -> None:
    said = chat(FIRST, prompt_cache_key="key", user="user")
    assert named(said, "header") == "header"
    assert named(said) == "key"
    assert named(chat(FIRST, user="user")) == "user"
    strange = chat(FIRST, user="a user of any name, ünd so on")
    assert named(strange) == named(chat(LATER, user="a user of any name, ünd so on"))


def test_chats_that_begin_alike_are_kept_apart_by_their_answers() -> None:
    """Without a name a turn is known by the chain of its history up to the last answer: a worker, which knows the
    answer, moves what it keeps to the name that the next turn has."""
    name = named(chat(FIRST))
    later, other = (
        [*FIRST, {"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]
        for said in ("So.", "Thus.")
    )
    assert len({name, named(chat(later)), named(chat(other))}) == 3
    history = chat(FIRST).history
    assert next_name(name, history, "So.") == named(chat(later))
    assert next_name(name, history, " So.\n") == named(chat(later)), "clients trim answers"
    assert next_name("named by hand", history, "So.") == "named by hand"
    asked_otherwise = [*later[:-1], {"role": "user", "content": "How?"}]
    assert named(chat(asked_otherwise)) == named(chat(later))
    assert named(chat(FIRST, user="")) == name
    assert named(chat(FIRST[1:])) != name
    assert named(chat([FIRST[0], {"role": "user", "content": "How?"}])) != name


# --- Harmless values, however they are written ---


def fields(kind: type[Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in (ChatRequest, CompletionRequest) for name in [*fields(kind), "verbosity", "x_y"]],
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


def is_whole(kind: inspect.Type) -> bool:
    return any(isinstance(one, inspect.IntType) for one in getattr(kind, "types", (kind,)))


WHOLE = [
    (kind, field.name)
    for kind in (ChatRequest, CompletionRequest)
    for field in inspect.type_info(kind).fields  # type: ignore[attr-defined]
    if is_whole(field.type) or field.name in ("n", "best_of")
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
        ({"temperature": 1e-40}, {"temperature": 1e-40}),
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
        ({"max_tokens": 0}, {"max_tokens": 1}),
        ({"n_predict": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 5, "max_tokens": 6}, {"max_tokens": 5}),
        ({"logit_bias": {"50256": 0, "": 1}}, {"logit_bias": ()}),
        ({"logit_bias": {"50256": -100, " yes": 2.5}}, {"logit_bias": ((50256, -100), (" yes", 2.5))}),
        ({"logit_bias": [[7, False], ["no", -1e300], [8, 1e300]]}, {"logit_bias": ((7, -1e9), ("no", -1e9), (8, 1e6))}),
        ({"presence_penalty": -0.0, "frequency_penalty": 0}, {"presence_penalty": 0.0, "frequency_penalty": 0.0}),
        ({"presence_penalty": 0.5, "frequency_penalty": -2}, {"presence_penalty": 0.5, "frequency_penalty": -2.0}),
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1}),
        ({"json_schema": {"const": 4}}, {"json_schema": {"const": 4}}),
        ({"n_probs": 3}, {"logprobs": 3}),
        ({"logprobs": True, "n_probs": 0}, {"logprobs": 0}),
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
        ({"n": 9}, "n", "n: must be at most 8, not 9"),
        ({"n": 0}, "n", "n: must be at least 1, not 0"),
        ({"max_tokens": -2}, "max_tokens", "max_tokens: must be at least -1, not -2"),
        ({"max_tokens": "8"}, "max_tokens", "max_tokens: must be a whole number, not a text"),
        ({"temperature": 100.1}, "temperature", "temperature: must be at most 100, not 100.1"),
        ({"temperature": -0.1}, "temperature", "temperature: must be at least 0, not -0.1"),
        ({"temperature": True}, "temperature", "temperature: must be a number, not true"),
        ({"repeat_penalty": 0}, "repeat_penalty", "repeat_penalty: must be above 0, not 0"),
        ({"stop": ["a"] * 17}, "stop", "stop: must have at most 16 entries"),
        ({"stop": "a" * 257}, "stop", "stop: must have at most 256 characters"),
        ({"stop": {}}, "stop", "stop: must be a text or a list, not an object"),
        ({"stream": "yes"}, "stream", "stream: must be true or false, not a text"),
        ({"model": 5}, "model", "model: must be a text, not 5"),
        ({"messages": []}, "messages", "messages: must not be empty"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is required"),
        (
            {"messages": [{"role": "system", "content": None}, {"role": "user", "content": "hi"}]},
            "messages[0].content",
            "messages[0].content is required",
        ),
        (
            {"messages": [{"role": "function", "content": "x"}]},
            "messages[0].role",
            'messages[0].role: must be "assistant", "developer", "system", "tool" or "user", not "function"',
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].tool_call_id",
            "messages[0].tool_call_id is required",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            'messages[0].content[0].type: must be "input_text", "output_text" or "text", not "image_url"',
        ),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}, HI]},
            "messages[0].tool_calls",
            "messages[0].tool_calls: only an assistant's message has any",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "reasoning_content": "y"}]},
            "messages[0].reasoning_content",
            "messages[0].reasoning_content: only an assistant's message has any",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [CALL | {"id": ""}]}, HI]},
            "messages[0].tool_calls[0].id",
            "messages[0].tool_calls[0].id: must not be empty",
        ),
        ({"functions": [{"name": "f"}]}, "functions", "functions is not supported: use tools"),
        ({"function_call": {"name": "f"}}, "function_call", "function_call is not supported: use tool_choice"),
        ({"reasoning_effort": "much"}, "reasoning_effort", None),
        (
            {"tools": [tool("a b")]},
            "tools[0].function.name",
            'tools[0].function.name: must be 1 to 64 letters, digits, _, . and -, not "a b"',
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "tools[0].function is required"),
        (
            {"tools": [{"type": "custom"}]},
            "tools[0].type",
            'tools[0].type: must be "function", not "custom"',
        ),
        (
            {"tools": [tool("f"), tool("f")]},
            "tools[1].function.name",
            "tools[1].function.name: 'f' is the name of an earlier tool",
        ),
        (
            {"tools": [tool(f"f{index}") for index in range(129)]},
            "tools",
            "tools: has 129 tools, and may have 128",
        ),
        (
            {"tools": [tool("f"), tool("g", parameters=nested(33))]},
            "tools[1].function.parameters",
            "tools[1].function.parameters: is nested deeper than 32",
        ),
        ({"tools": [tool("f", description="x" * 65536)]}, "tools", None),
        (
            {"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
            "tool_choice.function.name: no tool is called 'g'",
        ),
        ({"tool_choice": "required"}, "tool_choice", "tool_choice: no tools are offered"),
        (
            {"tools": [tool("f")], "tool_choice": "often"},
            "tool_choice",
            'tool_choice: must be "auto", "none", "required" or an object, not "often"',
        ),
        (
            {"tools": [tool("f")], "grammar": 'root ::= "a"'},
            "grammar",
            "grammar: a grammar and tools cannot both be given",
        ),
        ({"logit_bias": {"a": "b"}}, "logit_bias[...]", None),
        ({"logit_bias": {"4294967296": 1}}, "logit_bias", "logit_bias: there is no token 4294967296"),
        ({"logit_bias": [[-1, 1]]}, "logit_bias[0][0]", None),
        ({"presence_penalty": 101}, "presence_penalty", "presence_penalty: must be at most 100, not 101"),
        ({"top_logprobs": 2}, "top_logprobs", "top_logprobs wants logprobs: true"),
        ({"response_format": {"type": "sound"}}, "response_format.type", None),
        ({"modalities": ["text", "audio"]}, "modalities", "modalities is not supported: leave it out"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(body: dict[str, Any], param: str, sentence: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        request(ChatRequest, **body)
    said = caught.value.message
    assert (caught.value.status, caught.value.param, said) == (400, param, sentence if sentence is not None else said)
    assert param in said or sentence is not None


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"best_of": 3}, "best_of is not supported: n asks for several answers"),
        ({"best_of": 3, "n": 2}, "best_of is not supported: n asks for several answers"),
        ({"prompt": ["a", ""]}, "prompt: must not be empty"),
        ({"prompt": []}, "prompt: must not be empty"),
        ({"prompt": ["a"] * 129}, "prompt: must have at most 128 entries"),
        ({"suffix": "x", "echo": True}, "echo is not supported beside a suffix"),
        (
            {"logprobs": 1, "echo": True},
            "echo is not supported beside logprobs: those of a prompt are not told",
        ),
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
        posted(body, kind)
    assert caught.value.status == 400
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("escaped", "text"),
    [("a\\ud83d", "a\ufffd"), ("\\udc00 b", "\ufffd b"), ("\\ud83d\\ud83d\\ude00", "\ufffd\U0001f600")],
)
def test_half_an_emoji_is_taken_as_a_character_that_cannot_be_told(escaped: str, text: str) -> None:
    body = '{"model": "m", "messages": [{"role": "user", "content": "' + escaped + '"}]}'
    assert posted(body.encode(), ChatRequest)[0].history == (Message("user", text),)
    assert posted(b"\xef\xbb\xbf" + body.encode(), ChatRequest)[0].history == (Message("user", text),)


@pytest.mark.parametrize("said", [{"content": None, "tool_calls": []}, {}, {"content": ""}, {"content": []}])
def test_an_assistant_that_said_nothing_is_taken_as_that(said: dict[str, Any]) -> None:
    between = [*FIRST, {"role": "assistant"} | said, {"role": "user", "content": "go on"}]
    assert chat(between).history[2] == Message("assistant", "")


def test_parts_of_a_message_are_lines_of_their_own() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the best book?"}]
    found = request(ChatRequest, messages=[{"role": "user", "content": parts}])
    assert found.history == (Message("user", "What is\nthe best book?"),)
