from __future__ import annotations

import contextlib
from typing import Any

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import codec
from broker.errors import InvalidMessage, UnsupportedVersion
from broker.messages import (
    CallDelta,
    Chunk,
    Done,
    End,
    Failed,
    Message,
    Reply,
    Sampling,
    Started,
    Timings,
    Tool,
    ToolCall,
    Turn,
    Usage,
)

TURN: dict[str, Any] = {"v": 1, "id": "t", "conversation": "c", "messages": [{"role": "user", "content": "hi"}]}

CALL = {"id": "abcdefghi", "name": "lamp", "arguments": "{}"}

calls = st.builds(ToolCall, st.text("abc9", min_size=1, max_size=9), st.just("lamp"), st.text())
messages = (
    st.builds(Message, st.just("user"), st.text())
    | st.builds(
        Message, st.just("assistant"), st.text(), tool_calls=st.lists(calls, max_size=2).map(tuple), reasoning=st.text()
    )
    | st.builds(Message, st.just("tool"), st.text(), tool_call_id=st.text("abc9", min_size=1, max_size=9))
)
tools = st.lists(
    st.builds(
        Tool,
        st.text("abc_-.9", min_size=1, max_size=64),
        st.text(),
        st.none() | st.just({"type": "object", "properties": {}}),
    ),
    max_size=3,
    unique_by=lambda tool: tool.name,
)
samplings = st.builds(
    Sampling,
    max_tokens=st.integers(1, 1000),
    temperature=st.floats(0, 2),
    top_p=st.floats(0.1, 1),
    seed=st.integers(0, 2**63 - 1),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
    logprobs=st.none() | st.integers(0, 20),
    json_schema=st.none() | st.just({"type": "object"}),
    thinking=st.none() | st.sampled_from(["on", "off"]) | st.integers(0, 1000),
    presence_penalty=st.floats(-100, 100),
    frequency_penalty=st.floats(-100, 100),
    logit_bias=st.lists(
        st.tuples(st.integers(0, 2**31 - 1) | st.text(min_size=1, max_size=9), st.floats(-1e9, 1e8)), max_size=3
    ).map(tuple),
)
ids = st.text("abcXYZ019_-", min_size=1, max_size=64)
turns = st.builds(
    Turn,
    id=ids,
    conversation=ids,
    messages=st.lists(messages, max_size=4).map(lambda found: (*found, Message("user", "hi"))),
    sampling=samplings,
    tools=tools.map(tuple),
    tool_choice=st.sampled_from(["auto", "none"]),
    parallel_tool_calls=st.booleans(),
)
deltas = st.builds(CallDelta, st.integers(0, 3), st.text(), st.text(), st.text(), st.integers(0, 9))
chunks = st.builds(
    Chunk,
    st.integers(0, 9),
    st.integers(0, 3),
    st.text(),
    st.lists(st.integers(0, 1 << 20)).map(tuple),
    reasoning=st.text(),
    reasoning_offset=st.integers(0, 9),
    calls=st.lists(deltas, max_size=3).map(tuple),
)
dones = st.builds(
    Done,
    st.just("stop"),
    st.text(),
    st.lists(st.integers(0, 99)).map(tuple),
    st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    st.builds(Timings, st.floats(0, 9), st.floats(0, 9), st.floats(0, 9)),
    ids,
    tool_calls=st.lists(calls, max_size=3).map(tuple),
    reasoning=st.text(),
)


@given(turns, st.sampled_from([codec.MSGPACK, codec.JSON]))
def test_a_turn_survives_the_wire(turn: Turn, content_type: str) -> None:
    assert codec.decode(codec.encode(turn, content_type), Turn, {"Content-Type": content_type}) == turn


@given(chunks | st.builds(Started, st.integers(0, 9), st.integers(0, 9), ids))
def test_a_reply_survives_the_wire(reply: Reply) -> None:
    assert codec.decode(codec.encode(reply), Reply) == reply


@given(dones | st.builds(Failed, st.text(), st.text(), st.booleans()))
def test_an_end_survives_the_wire(end: End) -> None:
    assert codec.decode(codec.encode(end), End) == end


@given(st.binary())
def test_any_bytes_are_a_turn_or_an_invalid_message(payload: bytes) -> None:
    for content_type in (codec.MSGPACK, codec.JSON):
        with contextlib.suppress(InvalidMessage):
            codec.decode(payload, Turn, {"Content-Type": content_type})


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-9, 9) | st.text() | st.lists(st.text())))
def test_any_map_is_a_turn_or_an_invalid_message(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        codec.decode(msgpack.packb(fields | {"v": 1, "zz": 0}), Turn)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "x"}], "raw": True}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "", "reasoning": "x"}]}, "messages[0].reasoning"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "system", "content": "", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": "hi"}, "messages"),
        ({"sampling": {"max_tokens": 0}}, "sampling.max_tokens"),
        ({"sampling": {"max_tokens": -1}}, "sampling.max_tokens"),
        ({"sampling": {"max_tokens": "9"}}, "sampling.max_tokens"),
        ({"sampling": {"temperature": -0.1}}, "sampling.temperature"),
        ({"sampling": {"top_p": 0}}, "sampling.top_p"),
        ({"sampling": {"stop": [""]}}, "sampling.stop[0]"),
        ({"sampling": {"grammar": "root ::= x", "json_schema": {}}}, "sampling.grammar"),
        ({"sampling": {"grammar": "x" * 70_000}}, "sampling.grammar"),
        ({"sampling": {"presence_penalty": 101}}, "sampling.presence_penalty"),
        ({"sampling": {"frequency_penalty": float("nan")}}, "sampling.frequency_penalty"),
        ({"sampling": {"logit_bias": [[-1, 1.0]]}}, "sampling.logit_bias[0][0]"),
        ({"sampling": {"logit_bias": [["", 1.0]]}}, "sampling.logit_bias[0][0]"),
        ({"sampling": {"logit_bias": [[5, 1.0]] * 1025}}, "sampling.logit_bias"),
        ({"sampling": {"logit_bias": [[5, float("nan")]]}}, "sampling.logit_bias"),
        ({"sampling": {"logit_bias": [[5, 1e9]]}}, "sampling.logit_bias"),
        ({"sampling": {"logit_bias": [["x" * 200, 1.0]] * 21}}, "sampling.logit_bias"),
        ({"id": "a.b"}, "id"),
        ({"id": "t\n"}, "id"),
        ({"kind": "guess"}, "kind"),
        ({"kind": "score"}, "continuations"),
        ({"continuations": ["x"]}, "continuations"),
        ({"deadline": -1}, "deadline"),
    ],
)
def test_what_is_wrong_is_refused_with_the_fields_path(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        codec.decode(msgpack.packb(TURN | change), Turn)
    assert caught.value.field == field
    assert field in str(caught.value)


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(InvalidMessage, match="temprature"):
        codec.decode(msgpack.packb(TURN | {"sampling": {"temprature": 1}}), Turn)


@pytest.mark.parametrize("version", [0, 2, None, "1", True, 1.5])
def test_another_wire_version_is_refused(version: object) -> None:
    with pytest.raises(UnsupportedVersion):
        codec.decode(msgpack.packb(TURN | {"v": version}), Turn)


def test_a_missing_version_is_refused() -> None:
    with pytest.raises(UnsupportedVersion):
        codec.decode(msgpack.packb({name: value for name, value in TURN.items() if name != "v"}), Turn)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x01", b"hello", b"\x81" * 2000, b"\xdf\xff\xff\xff\xff"])
def test_what_is_not_msgpack_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidMessage):
        codec.decode(payload, Turn)


def test_an_unknown_content_type_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="text/plain"):
        codec.decode(msgspec.json.encode(TURN), Turn, {"Content-Type": "text/plain"})


def test_json_with_a_charset_is_json() -> None:
    assert codec.decode(msgspec.json.encode(TURN), Turn, {"Content-Type": "application/json; charset=utf-8"}).id == "t"


def test_a_reader_ignores_fields_of_later_releases() -> None:
    chunk = {"v": 1, "type": "chunk", "index": 0, "attempt": 0, "text": "x", "colour": "red"}
    assert codec.decode(msgpack.packb(chunk), Reply) == Chunk(0, 0, "x")
