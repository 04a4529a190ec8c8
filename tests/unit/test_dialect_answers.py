"""What OpenAI's clients are told: failures in their words, and where in the text each token stands."""

from __future__ import annotations

import pytest

from broker.messages import Chunk, Failed, TokenLogprob
from producers.gateway.failures import TOO_LONG, error_of
from producers.gateway.openai.answer_objects import AnswerObjects
from producers.gateway.openai.answers import Writer
from producers.gateway.openai.errors import FIELDS, error_body


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
    found = error_of(Failed(code, "why", retryable), FIELDS)
    assert (found.status, found.kind, found.code, found.may_retry) == (status, kind, code, may_retry)


def test_a_full_context_is_told_in_words_and_numbers_that_clients_know() -> None:
    found = error_of(Failed("prompt_too_long", "messages: 507 tokens, and the context holds 300"), FIELDS)
    error = error_body(found)["error"]
    assert (found.status, error["code"], error["type"]) == (400, "context_length_exceeded", TOO_LONG)
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (507, 300)
    assert "maximum context length is 300 tokens" in error["message"]
    assert "exceeds the available context size" in error["message"]
    other = error_body(error_of(Failed("prompt_too_long", "too long"), FIELDS))["error"]
    assert "exceeds the available context size" in other["message"]


@pytest.mark.parametrize("is_chat", [True, False])
def test_tokens_that_tell_nothing_yet_are_no_event(is_chat: bool) -> None:
    """As those of a call's mark, or of a text that may become a stop text."""
    objects = AnswerObjects("1", "m", is_chat=is_chat)
    assert objects.chunks(0, Chunk(1, 0, "", (7, 8))) == []
    (said,) = objects.chunks(0, Chunk(2, 0, "x", (9,)))
    assert "x" in str(said["choices"])
    (told,) = objects.chunks(0, Chunk(3, 0, "", (7,), (TokenLogprob(7, -1.0, (), b"a"),)))
    assert told["choices"][0]["logprobs"] is not None
    assert Writer("1", "m", is_chat=is_chat).piece(0, Chunk(1, 0, "", (7, 8))) == b""


def test_text_offsets_count_characters_in_all_pieces_of_a_stream() -> None:
    text = " \U0001f469\u200d\U0001f680!"
    raw = text.encode()
    pieces = [raw[:4], raw[4:5], raw[5:8], raw[8:10], raw[10:12], raw[12:]]
    logprobs = [TokenLogprob(index, -1.0, (), piece) for index, piece in enumerate(pieces)]
    whole = AnswerObjects("1", "m", is_chat=False).chunks(0, Chunk(1, 0, text, (), tuple(logprobs)))[0]
    expected = [0, 1, 2, 3, 3, 4]
    assert whole["choices"][0]["logprobs"]["text_offset"] == expected
    streamed = AnswerObjects("1", "m", is_chat=False)
    chunks = [streamed.chunks(0, Chunk(index, 0, "", (), (one,)))[0] for index, one in enumerate(logprobs)]
    assert [chunk["choices"][0]["logprobs"]["text_offset"][0] for chunk in chunks] == expected
    anew = streamed.chunks(0, Chunk(9, 1, "", (), (logprobs[0],)))[0]
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
    whole = AnswerObjects("1", "m", is_chat=False).chunks(0, Chunk(1, 0, text, (), logprobs))[0]
    assert whole["choices"][0]["logprobs"]["text_offset"] == expected


def test_a_refused_schema_is_told_by_the_field_of_the_request() -> None:
    failed = Failed("invalid_grammar", "sampling.json_schema: at /properties/a: pattern: unbalanced '('")
    error = error_of(failed, FIELDS)
    assert (error.status, error.param, error.code) == (400, "response_format.json_schema.schema", "invalid_grammar")
    assert error.message == "response_format.json_schema.schema: at /properties/a: pattern: unbalanced '('"
