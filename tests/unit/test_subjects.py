from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import priorities, subjects
from broker.errors import InvalidName

tokens = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(tokens, st.sampled_from(priorities.LANES), tokens, tokens)
def test_a_turns_subject_is_read_back(model: str, priority: str, client: str, turn: str) -> None:
    address = subjects.parse_turn(subjects.turn(model, priority, client, turn))
    assert (address.model, address.priority, address.client, address.turn) == (model, priority, client, turn)


@given(tokens, tokens)
def test_a_cancels_subject_is_read_back(client: str, name: str) -> None:
    assert subjects.parse_cancel(subjects.cancel_turn(client, name)) == subjects.CancelAddress(client, turn=name)
    assert subjects.parse_cancel(subjects.cancel_conversation(client, name)).conversation == name
    assert subjects.parse_cancel(subjects.cancel_all(client)) == subjects.CancelAddress(client)


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "a b", "é", "x" * 65, "a\n", "a\r\nPUB x 1", None, 5])
def test_what_is_not_one_token_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        subjects.turn("m", "batch", "c", name)
    with pytest.raises(InvalidName):
        subjects.reply(name, "t")


@pytest.mark.parametrize("subject", ["turn.m.urgent.c.t", "turn.m.batch.c", "turn.m.batch.c.t.x", "reply.c.t", ""])
def test_what_is_no_turns_subject_is_refused(subject: str) -> None:
    with pytest.raises(InvalidName):
        subjects.parse_turn(subject)
