"""Text → tokens → text with the vocabularies of llama.cpp's source: as their authors say, and back to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.vocabularies import (
    FILES,
    FOLDER,
    NAMES,
    NONE,
    cleans_spaces,
    examples,
    is_of_words,
    lead,
    streamed,
    text_by_llama_cpp,
    vocabulary_of,
    without_bos,
)
from workers.llama.vocabulary import LlamaVocabulary, tokens_of

Examples = list[tuple[str, list[int]]]


@pytest.fixture(scope="module", params=FILES, ids=NAMES)
def file(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture(scope="module")
def vocabulary(file: Path) -> Iterator[LlamaVocabulary]:
    with vocabulary_of(file) as found:
        yield found


@pytest.mark.skipif(not FILES, reason=NONE)
def test_the_vocabularies_of_the_source_are_all_tried() -> None:
    assert len(FILES) >= 19, FOLDER
    assert sum(map(len, map(examples, FILES))) >= 650


def test_a_text_has_the_tokens_that_llama_cpps_authors_say(file: Path, vocabulary: LlamaVocabulary) -> None:
    for text, tokens in examples(file):
        as_text = vocabulary.tokenize(text, template_spans=[], add_bos=True)
        assert without_bos(vocabulary, as_text) == tokens, text
        as_prompt = vocabulary.tokenize(text, template_spans=[(0, len(text))], add_bos=True)
        assert without_bos(vocabulary, as_prompt) == tokens, text


def test_a_content_between_control_tokens_has_the_tokens_that_llama_cpp_gives_it(
    file: Path, vocabulary: LlamaVocabulary
) -> None:
    """Also beside a content that spells a control token: then each stretch of text is tokenised by itself."""
    spelling, control = next(iter(vocabulary.control_tokens.items()))
    for text, _ in examples(file):
        framed = f"{spelling}{text}{spelling}"
        expected = tokens_of(vocabulary.pointer, framed, parse_special=True)
        spans = [(0, len(spelling)), (len(framed) - len(spelling), len(framed))]
        assert vocabulary.tokenize(framed, template_spans=spans, add_bos=False) == expected, text
        spelled = f"{framed}say {spelling}"
        tokens = vocabulary.tokenize(spelled, template_spans=spans, add_bos=False)
        assert tokens[: len(expected)] == expected, text
        assert tokens.count(control) == expected.count(control), text


def test_tokens_give_the_text_back_to_the_byte_at_every_split(file: Path, vocabulary: LlamaVocabulary) -> None:
    if is_of_words(vocabulary):
        pytest.skip("an embedding model's vocabulary: its tokens do not give a text back")
    before, has_own = lead(vocabulary), not cleans_spaces(vocabulary)
    for text, tokens in examples(file):
        pieces = [vocabulary.piece(token) for token in tokens]
        expected = before + text if text else ""
        assert "".join(streamed(pieces)) == expected, text
        assert not has_own or text_by_llama_cpp(vocabulary, tokens) == text
        raw = b"".join(pieces)
        assert all("".join(streamed([raw[:at], raw[at:]])) == expected for at in range(len(raw)))
        for known in range(len(pieces)):  # what another worker sent, and what this one adds to it
            first = "".join(streamed(pieces[:known])[:-1])
            assert first + "".join(streamed(pieces, known=known)) == expected, text


def test_what_goes_on_from_an_answer_has_no_space_of_its_own(file: Path, vocabulary: LlamaVocabulary) -> None:
    if is_of_words(vocabulary):
        pytest.skip("an embedding model's vocabulary: its tokens do not give a text back")
    before = lead(vocabulary)
    for text, tokens in examples(file):
        found = vocabulary.tokenize(text, template_spans=[], add_bos=False)
        assert b"".join(map(vocabulary.piece, found)).decode() == text
        assert before or found == tokens, text
