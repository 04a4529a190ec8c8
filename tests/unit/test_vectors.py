"""Texts become turns and vectors one list again; on the wire both are checked."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import msgpack  # type: ignore[import-untyped]
import msgspec
import numpy as np
import pytest

from broker import codec
from broker.embedding import BYTES_A_TURN, TEXTS_A_TURN, Vectors, embedded, in_turns, joined
from broker.errors import InvalidMessage
from broker.messages import Done, Embeddings, EmbedText, Message, Timings, Turn, Usage


def turn(**changes: Any) -> Turn:
    return Turn(**{"id": "t", "conversation": "c", "kind": "embed", "texts": ("a", (1, 2))} | changes)


def done(texts: tuple[EmbedText, ...], dimension: int = 2) -> Done:
    """What a worker would say of these: each text's vector is its length, twice."""
    data = b"".join(np.full(dimension, len(text), "<f4").tobytes() for text in texts)
    return Done("stop", "", (), Usage(len(texts), 0, 0), Timings(0, 0, 0), "w", embeddings=Embeddings(dimension, data))


def test_a_turn_of_texts_and_its_vectors_pass_the_wire() -> None:
    assert codec.decode(codec.encode(turn(truncate=True, dimensions=3)), Turn).texts == ("a", (1, 2))
    end = codec.decode_reply(codec.encode(done(("a", "bc"))))
    assert isinstance(end, Done)
    assert end.embeddings is not None
    assert np.frombuffer(end.embeddings.data, "<f4").tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"texts": ()}, "texts"),
        ({"texts": (None,)}, "texts[0]"),
        ({"texts": ("a",) * 257}, "texts"),
        ({"texts": ((-1,),)}, "texts[0][0]"),
        ({"dimensions": 0}, "dimensions"),
        ({"messages": (Message("user", "hello"),)}, "messages"),
        ({"raw": True}, "raw"),
        ({"kind": "generate", "messages": (Message("user", "hello"),)}, "texts"),
        ({"kind": "generate", "messages": (Message("user", "hello"),), "texts": (), "truncate": True}, "truncate"),
    ],
)
def test_what_is_wrong_with_a_turn_of_texts_names_its_field(changes: dict[str, Any], field: str) -> None:
    fields = {"id": "t", "conversation": "c", "kind": "embed", "texts": ("a",)} | changes
    payload = msgpack.packb({"v": 1} | msgspec.to_builtins(fields))
    with pytest.raises(InvalidMessage) as caught:
        codec.decode(payload, Turn)
    assert caught.value.field == field


def test_bytes_that_are_no_vectors_of_that_width_are_refused() -> None:
    with pytest.raises(InvalidMessage, match="no vectors of 2 values"):
        Embeddings(2, b"123")


def test_vectors_are_read_one_by_one_and_as_a_matrix() -> None:
    vectors = Vectors(2, np.asarray([[1, 2], [3, 4], [5, 6]], "<f4").tobytes(), 9)
    assert [list(one) for one in vectors] == [[1, 2], [3, 4], [5, 6]]
    assert list(vectors[-1]) == [5, 6]
    assert len(vectors[:2]) == 2
    with pytest.raises(IndexError):
        vectors[3]
    both = joined([vectors, vectors])
    assert (len(both), both.num_tokens) == (6, 18)
    assert len(joined([])) == 0
    with pytest.raises(InvalidMessage, match="several models"):
        joined([vectors, Vectors(1, b"1234")])


async def test_a_long_list_becomes_turns_by_number_and_by_size() -> None:
    parts = [part async for part in in_turns(f"{index}" for index in range(2 * TEXTS_A_TURN + 1))]
    assert [len(part) for part in parts] == [TEXTS_A_TURN, TEXTS_A_TURN, 1]
    long = "x" * BYTES_A_TURN
    assert [len(part) async for part in in_turns([long, "a", "b", long])] == [1, 2, 1]


class FakeAnswer:
    """Of a turn that ends once it is let."""

    def __init__(self, texts: tuple[EmbedText, ...], log: list[str]) -> None:
        self.texts = texts
        self.ended = asyncio.Event()
        self.error: Exception | None = None
        self._log = log

    def __await__(self) -> Generator[Any, None, Done]:
        return self._result().__await__()

    async def _result(self) -> Done:
        await self.ended.wait()
        if self.error is not None:
            raise self.error
        return done(self.texts)

    async def publish(self) -> None:
        self._log.append("sent")

    async def cancel(self) -> None:
        self._log.append("cancelled")

    async def close(self) -> None:
        self._log.append("closed")


async def test_turns_in_flight_come_back_in_order_whichever_ends_first() -> None:
    log: list[str] = []
    answers: list[FakeAnswer] = []

    def ask(texts: tuple[EmbedText, ...]) -> FakeAnswer:
        answers.append(FakeAnswer(texts, log))
        if len(answers) == 3:  # all that may be in flight: the last ends first
            for one in reversed(answers):
                one.ended.set()
        elif len(answers) > 3:
            answers[-1].ended.set()
        return answers[-1]

    texts = ["x" * (1 + index % 9) for index in range(4 * TEXTS_A_TURN)]
    found = joined([part async for part in embedded(ask, texts, max_in_flight=3)])
    assert [one[0] for one in found] == [len(text) for text in texts]
    assert log == ["sent"] * 4


async def test_where_one_turn_fails_those_in_flight_are_cancelled() -> None:
    log: list[str] = []

    def ask(texts: tuple[EmbedText, ...]) -> FakeAnswer:
        answer = FakeAnswer(texts, log)
        answer.error = InvalidMessage("texts[0]", "too long")
        answer.ended.set()
        return answer

    with pytest.raises(InvalidMessage, match="too long"):
        async for _ in embedded(ask, ["a"] * (3 * TEXTS_A_TURN), max_in_flight=3):
            pass
    assert log.count("cancelled") == log.count("closed") == 3


async def test_an_end_without_vectors_says_how_the_turn_ended() -> None:
    answer = FakeAnswer((), [])

    async def cancelled() -> Done:
        return Done("cancelled", "", (), Usage(0, 0, 0), Timings(0, 0, 0), "w")

    answer._result = cancelled  # type: ignore[method-assign]
    with pytest.raises(InvalidMessage, match="'cancelled'"):
        async for _ in embedded(lambda texts: answer, ["a"]):
            pass
