"""An answer's tokens in its conversation's next prompt spell what the client was sent, and nothing else."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker.messages import Message, Turn
from tests.fakes import FakeRenderer
from workers.engine.detokenizer import Detokenizer
from workers.engine.protocol import Infill
from workers.kv.index import packed
from workers.prompts.history import History
from workers.prompts.spoken import RETOKENIZED, as_spoken, ends_with, num_spoken

CONTROL = 1
MERGED = {"ab": 300, "b\u00e9": 301, "tion": 302}
"""Pieces of more than a character, which the tokenizer takes where it can, the first one first."""


class ByteVocabulary:
    """A byte a token, shifted by 3, and some merges: a text has many tokenisations."""

    begin: int | None = None
    num_tokens = 1 << 16

    def piece(self, token: int) -> bytes:
        for text, merged in MERGED.items():
            if token == merged:
                return text.encode()
        return bytes([token - 3]) if token >= 3 else b""

    def spelled(self, token: int) -> bytes:
        return self.piece(token)

    infill: Infill | None = None

    def is_end(self, token: int) -> bool:
        return token == 0

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        tokens: list[int] = [2] if add_bos else []
        while text:
            for merge, token in MERGED.items():
                if text.startswith(merge):
                    tokens.append(token)
                    text = text[len(merge) :]
                    break
            else:
                tokens += [byte + 3 for byte in text[0].encode()]
                text = text[1:]
        return tokens


VOCABULARY = ByteVocabulary()


def sent(tokens: list[int], stop: tuple[str, ...]) -> str:
    """What a client is sent of an answer."""
    detokenizer, text = Detokenizer(stop), ""
    for token in tokens:
        text += detokenizer.add(VOCABULARY.piece(token))
        if detokenizer.stopped:
            return text
    return text + detokenizer.finish()


def spelled(tokens: list[int]) -> bytes:
    return b"".join(map(VOCABULARY.piece, tokens))


generated = st.lists(
    st.sampled_from([*(byte + 3 for byte in "abé☃ tion\n".encode()), *MERGED.values(), CONTROL]), max_size=40
)


@given(generated, st.lists(st.text("abtion é", min_size=1, max_size=4), max_size=2))
def test_what_is_kept_of_an_answer_spells_what_was_sent(tokens: list[int], stop: list[str]) -> None:
    text = sent(tokens, tuple(stop))
    kept = as_spoken(VOCABULARY, tokens, text)
    assert spelled(kept) == text.encode()
    assert CONTROL not in kept


@given(generated)
def test_tokens_that_spell_the_answer_are_kept_whatever_the_tokenizer_would_have_made(tokens: list[int]) -> None:
    tokens = [token for token in tokens if token != CONTROL]
    if "\ufffd" not in (text := sent(tokens, ())):
        assert as_spoken(VOCABULARY, tokens, text) == tokens


def test_of_a_long_answer_whose_stop_text_was_cut_off_the_generated_tokens_stay() -> None:
    letters = [ord(letter) + 3 for letter in "ab" * 20]  # which the tokenizer would merge
    answer = [*letters, ord("S") + 3, ord("T") + 3]
    assert as_spoken(VOCABULARY, answer, "ab" * 20) == letters
    assert num_spoken(VOCABULARY, answer, b"ab" * 20) == (40, 40)


def test_where_only_the_end_would_be_tokenised_otherwise_it_is() -> None:
    answer = [302] * 10 + [byte + 3 for byte in b"abS"]
    assert RETOKENIZED >= 2
    assert as_spoken(VOCABULARY, answer, "tion" * 10 + "ab") == [302] * 10 + [300]


async def test_what_an_older_release_remembered_with_its_stop_text_is_not_adopted() -> None:
    turn = Turn("t", "c", (Message("user", "hi"),))
    giver, taker = History(FakeRenderer(), VOCABULARY), History(FakeRenderer(), VOCABULARY)
    prompt = await giver.prompt("alice", turn)
    giver.remember("alice", turn, prompt, [*prompt.tokens, 302, 302], "tiontion")
    remembered = giver.recall("alice", "c")
    assert remembered is not None
    stopped = msgspec.structs.replace(remembered, tokens=remembered.tokens + packed([300]))
    taker.adopt("alice", "c", stopped)
    assert taker.recall("alice", "c") is None
    taker.adopt("alice", "c", remembered)
    assert taker.recall("alice", "c") == remembered


@given(generated)
def test_an_answers_tokens_end_with_its_text_and_with_no_other(tokens: list[int]) -> None:
    text = sent(tokens, ())
    kept = as_spoken(VOCABULARY, tokens, text)
    assert ends_with(VOCABULARY, [5, 6, *kept], text)
    assert not ends_with(VOCABULARY, [5, 6, *kept, ord("Z") + 3], text + "z")


async def test_the_next_prompt_is_the_same_whether_the_conversation_is_remembered_or_not() -> None:
    question = Message("user", "hi")
    for answer, stop in (
        ([ord(letter) + 3 for letter in "one, two"], (", t",)),
        ([302, 302, CONTROL, 302], ()),
        ([ord("x") + 3, *(byte + 3 for byte in "☃".encode()[:2])], ()),
        ([ord("x") + 3, *(byte + 3 for byte in "é".encode()), 302], ("\u00e9ti",)),
        ([300, 301], ("b\u00e9",)),
    ):
        history = History(FakeRenderer(), VOCABULARY)
        turn = Turn("t", "c", (question,))
        prompt = await history.prompt("alice", turn)
        text = sent(answer, stop)
        history.remember("alice", turn, prompt, [*prompt.tokens, *answer], text)
        following = Turn("u", "c", (question, Message("assistant", text), Message("user", "more")))
        remembered = await history.prompt("alice", following)
        assert remembered.num_known
        assert remembered.tokens == (await History(FakeRenderer(), VOCABULARY).prompt("alice", following)).tokens
