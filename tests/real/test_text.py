"""Characters of every script come whole and in their place, whatever tokens of a real vocabulary they are made of and
however many go into a chunk."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import pytest

from broker.messages import Chunk, TokenLogprob
from producers.gateway.openai.answer_objects import AnswerObjects
from tests.real.scripts import TEXTS, is_whole, literal
from tests.real.vocabularies import SPECIMENS, specimen, streamed
from workers.grammars.frames import IS_DONE
from workers.grammars.matcher import Matcher, TokenTable
from workers.llama.vocabulary import LlamaVocabulary

CHUNK_SIZES = (1, 2, 3, 5, 8, 1000)


@pytest.fixture(scope="module", params=SPECIMENS)
def vocabulary(request: pytest.FixtureRequest) -> Iterator[LlamaVocabulary]:
    with specimen(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def table(vocabulary: LlamaVocabulary) -> TokenTable:
    return TokenTable(vocabulary)


def spelled_by_chance(table: TokenTable, text: str, chance: random.Random) -> list[int]:
    """Tokens that spell a text: at each place any of those that the grammar allows, a byte's own ones too."""
    matcher, tokens = Matcher(table, literal(text)), []
    while not matcher.flags & IS_DONE:
        mask = matcher.mask()
        places = [8 * at + bit for at, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1]
        tokens.append(chance.choice(places))
        assert matcher.take(tokens[-1])
    return tokens


def gathered(texts: Sequence[str], size: int) -> list[str]:
    """What is sent where so many tokens go into a chunk; the last has the rest."""
    return ["".join(batch) for batch in itertools.batched(texts, size)]


@pytest.mark.parametrize("script", TEXTS)
def test_no_chunk_has_half_a_character_and_all_have_the_text(
    vocabulary: LlamaVocabulary, table: TokenTable, script: str
) -> None:
    text, chance, halves = TEXTS[script], random.Random(script), 0
    for _ in range(4):
        pieces = [vocabulary.piece(token) for token in spelled_by_chance(table, text, chance)]
        assert b"".join(pieces) == text.encode()
        halves += sum(not is_whole(piece.decode(errors="replace")) for piece in pieces)
        for size in CHUNK_SIZES:
            chunks = gathered(streamed(pieces), size)
            assert "".join(chunks) == text
            assert all(map(is_whole, chunks))
        (whole,) = AnswerObjects("1", "m", is_chat=False).chunks(
            0, Chunk(1, 0, text, (), tuple(TokenLogprob(0, -1.0, (), piece) for piece in pieces))
        )
        before = itertools.accumulate((len(piece) for piece in pieces[:-1]), initial=0)
        expected = [len(text.encode()[:at].decode(errors="ignore")) for at in before]
        assert whole["choices"][0]["logprobs"]["text_offset"] == expected
    assert halves or text.isascii()


@pytest.mark.parametrize("script", TEXTS)
def test_a_stop_text_of_any_script_is_found_across_tokens_and_never_sent(
    vocabulary: LlamaVocabulary, table: TokenTable, script: str
) -> None:
    text, chance = TEXTS[script], random.Random(script)
    for _ in range(4):
        pieces = [vocabulary.piece(token) for token in spelled_by_chance(table, text, chance)]
        for _ in range(8):
            begin = chance.randrange(len(text))
            stop = text[begin : begin + chance.randrange(1, 6)]
            never = stop + "\u0378"
            texts = streamed(pieces, (never, stop))
            assert "".join(texts) == text[: text.index(stop)]
            assert "".join(streamed(pieces, (never,))) == text
