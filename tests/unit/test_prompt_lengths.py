"""About how long a prompt is: for the choice of a model, and for what a client pays where nobody told."""

from __future__ import annotations

from typing import Any

import pytest

from broker.answer import Answer, TurnFailed
from broker.messages import Failed, Message, Started, Turn
from producers.gateway.places import cost_of
from producers.routing.lengths import MESSAGE_TOKENS, about, longest
from producers.routing.policies import Needs
from tests.unit.test_answer import FakeClient, joined

TOKENS = tuple(range(50))
RAW: dict[str, Any] = {"raw": True}


@pytest.mark.parametrize(
    ("parts", "num_tokens"),
    [
        ({"messages": (Message("user", "x" * 40), Message("assistant", "y" * 40))}, 20 + 2 * MESSAGE_TOKENS),
        (RAW | {"messages": (Message("user", "ü" * 40),)}, 20),
        (RAW | {"prompt": TOKENS}, 50),
        (RAW | {"prompt": (*TOKENS, "x" * 40)}, 60),
        (RAW | {"messages": (Message("user", "x" * 40),), "suffix": "y" * 40, "files": (("a", "z" * 39),)}, 30),
        ({"texts": (TOKENS, "x" * 40, TOKENS)}, 110),
    ],
)
async def test_what_a_late_turn_costs_is_its_prompt_whatever_it_is_made_of(
    parts: dict[str, Any], num_tokens: int
) -> None:
    kind: dict[str, Any] = {"kind": "embed"} if "texts" in parts else {}
    assert about(**parts) == num_tokens
    for counted, cost in ((0, num_tokens), (7, 7)):
        client = FakeClient()
        client.says(Started(0, 0, "w", prompt_tokens=counted), Failed("deadline", "it is late"))
        answer = Answer(client, Turn("t", "c", **kind, **parts), "m", "interactive")
        with pytest.raises(TurnFailed):
            await joined(answer)
        assert cost_of(answer, answer.end) == cost, "as its worker has counted it, where it did"


def test_a_context_holds_one_text_to_embed_at_a_time() -> None:
    texts = (TOKENS, "x" * 400)
    assert longest(texts) == 100
    assert Needs.of((), kind="embed", texts=texts).num_tokens == 100
    assert Needs.of((), raw=True, prompt=TOKENS).num_tokens == 50
