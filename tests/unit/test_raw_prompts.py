"""Prompts of tokens and texts, around a gap, and the questions for a prompt alone."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from broker import codec
from broker.errors import InvalidMessage, TurnRejected
from broker.messages import Message, Turn
from tests.fakes import FIRST, FakeRenderer, FakeVocabulary
from workers.engine.protocol import Infill
from workers.prompts.history import History


class Filling(FakeVocabulary):
    """Has marks around a gap."""

    infill: Infill | None = Infill(2, 0, 1)


class Coding(FakeVocabulary):
    """Has marks of files too."""

    infill: Infill | None = Infill(2, 0, 1, FIRST + ord("®"), FIRST + ord("©"))


class Recognising(FakeVocabulary):
    """Takes <2> for a control token where a template may have written it."""

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        if text == "<2>" and any(begin < end for begin, end in template_spans):
            return [1, 2] if add_bos else [2]
        return super().tokenize(text, template_spans=template_spans, add_bos=add_bos)


def spelled(text: str) -> list[int]:
    return [FIRST + ord(letter) for letter in text]


def raw(**fields: Any) -> Turn:
    given: dict[str, Any] = {"messages": (), "raw": True} | fields
    return Turn("t", "c", **given)


async def test_tokens_and_texts_are_a_prompt_in_a_row() -> None:
    history = History(FakeRenderer(), FakeVocabulary())
    prompt = await history.prompt("alice", raw(prompt=("a", 2, FIRST + 98, "cd")))
    assert prompt.tokens == [1, *spelled("a"), 2, *spelled("bcd")]
    assert prompt.rendered.text == "a<2>bcd"
    assert (await history.prompt("alice", raw(prompt=("ab", "c")))).rendered.text == "abc"
    # Tokens are taken as they stand: nothing is put before them.
    assert (await history.prompt("alice", raw(prompt=(9, "b")))).tokens == [9, *spelled("b")]


async def test_who_asks_for_a_prompt_may_want_no_beginning_and_control_tokens_as_text() -> None:
    history = History(FakeRenderer(), Recognising())

    async def tokens(**fields: Any) -> list[int]:
        return (await history.prompt("alice", raw(kind="prompt", **fields))).tokens

    for given in ({"prompt": ("<2>",)}, {"messages": (Message("user", "<2>"),)}):
        assert await tokens(**given) == [1, 2]
        assert await tokens(**given, bare=True) == [2]
        assert await tokens(**given, bare=True, as_text=True) == spelled("<2>")
    for name in ("bare", "as_text"):
        with pytest.raises(InvalidMessage, match=name):
            raw(prompt=("a",), **{name: True})


async def test_a_token_that_there_is_not_is_refused_by_its_place() -> None:
    history = History(FakeRenderer(), FakeVocabulary())
    with pytest.raises(TurnRejected, match=r"prompt\[1\]: 2097152 is no token") as caught:
        await history.prompt("alice", raw(prompt=("a", 1 << 21)))
    assert caught.value.code == "invalid_message"


async def test_a_gap_is_filled_by_the_models_own_marks() -> None:
    turn = raw(messages=(Message("user", "def f("),), suffix="return x")
    prompt = await History(FakeRenderer(), Filling()).prompt("alice", turn)
    assert prompt.tokens == [1, 2, *spelled("def f("), 0, *spelled("return x"), 1]
    empty = await History(FakeRenderer(), Filling()).prompt("alice", raw(prompt=(FIRST + 97,), suffix=""))
    assert empty.tokens == [1, 2, *spelled("a"), 0, 1]
    with pytest.raises(TurnRejected, match="suffix: the model's vocabulary has no marks"):
        await History(FakeRenderer(), FakeVocabulary()).prompt("alice", turn)


async def test_files_beside_a_gap_come_first() -> None:
    turn = raw(messages=(Message("user", "x"),), suffix="y", files=(("a.py", "import b"),))
    prompt = await History(FakeRenderer(), Coding()).prompt("alice", turn)
    files = "®project\n©a.py\nimport b©file\n"
    assert prompt.tokens == [1, *spelled(files), 2, *spelled("x"), 0, *spelled("y"), 1]
    plain = await History(FakeRenderer(), Filling()).prompt("alice", turn)
    assert plain.tokens == [1, *spelled("a.py\nimport b\n\n"), 2, *spelled("x"), 0, *spelled("y"), 1]


TURN: dict[str, Any] = {"v": 1, "id": "t", "conversation": "c", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": [5], "messages": []}, "prompt"),
        ({"prompt": [5], "raw": True}, "messages"),
        ({"prompt": [-5], "messages": [], "raw": True}, "prompt[0]"),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "x", "raw": True, "kind": "score", "continuations": ["y"]}, "suffix"),
        ({"files": [["a", "b"]], "raw": True}, "files"),
        ({"echo": True}, "echo"),
        ({"echo": True, "raw": True, "sampling": {"logprobs": 0}}, "echo"),
        ({"echo": True, "raw": True, "kind": "prompt"}, "echo"),
        ({"messages": [], "raw": True}, "messages"),
        ({"kind": "prompt", "continuations": ["x"]}, "continuations"),
    ],
)
def test_what_a_raw_turn_cannot_be_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        codec.decode(msgpack.packb(TURN | change), Turn)
    assert caught.value.field == field
