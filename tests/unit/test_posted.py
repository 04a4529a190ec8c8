"""What a body asks for beyond what is done, and for how many turns."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.messages import Message
from producers.gateway.errors import ApiError
from producers.gateway.naming import conversation_of
from producers.gateway.openai.chat import ChatRequest
from producers.gateway.openai.completions import CompletionRequest
from producers.gateway.posted import posted, shown
from tests.unit.test_dialect import HI, request

ODD: dict[str, Any] = {
    "typo": 1,
    "y" * 5000: 1,
    "a, b: c\r\nd": 1,
    "messages": [HI | {"name": "anna"}, {"role": "assistant", "content": "x", "mood": 1}, HI | {"name": "bob"}],
    "stream_options": {"more": 1},
}


def test_what_is_unknown_or_not_done_is_named_and_the_rest_is_done() -> None:
    found, ignored = posted(msgspec.json.encode(ODD), ChatRequest)
    assert found.history == (Message("user", "hi"), Message("assistant", "x"), Message("user", "hi"))
    first, long, strange, *others = shown(ignored)
    assert (first, long, strange) == ("typo", "y" * 59 + "?", "a??b:?c??d")
    assert others == ["messages[].mood", "stream_options.more", "messages[].name"]
    assert posted(msgspec.json.encode({"messages": [HI], "verbosity": None}), ChatRequest)[1] == []
    assert len(shown([f"f{number}" for number in range(1000)])) == 33


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"typo": 1}, "typo"),
        ({"y" * 5000: 1}, "y" * 59 + "…"),
        ({"messages": [HI | {"mood": 1}]}, "messages[0].mood"),
        ({"messages": [HI | {"name": "anna"}]}, "messages[0].name"),
    ],
)
def test_a_strict_gateway_refuses_what_it_would_ignore(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        posted(msgspec.json.encode({"messages": [HI]} | body), ChatRequest, is_strict=True)
    assert (caught.value.param, caught.value.message) == (param, f"{param} is not supported here")


def test_several_answers_are_turns_of_one_conversation_with_seeds_of_their_own() -> None:
    found = request(ChatRequest, n=3, seed=2**63 - 2)
    assert [one.sampling.seed for one in found.asked()] == [2**63 - 2, 2**63 - 1, 0]
    assert len({one.history for one in found.asked()}) == 1
    assert [one.is_raw for one in request(CompletionRequest, n=2).asked()] == [True, True]


def test_prompts_of_one_request_that_are_said_to_be_of_one_conversation_are_kept_apart() -> None:
    history = (Message("user", "hi"),)
    assert conversation_of("said", history, 0) == conversation_of("said", history)
    assert conversation_of("said", history, 1) != conversation_of("said", history)
    assert conversation_of(None, history, 1) == conversation_of(None, history)
