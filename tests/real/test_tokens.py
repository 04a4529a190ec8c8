"""Text → tokens → text with the vocabularies of llama.cpp's source: as their authors say, and back to the byte; and the
ends of answers, which are never shown."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from broker.messages import Sampling
from tests.real.scripted import answered
from tests.real.vocabularies import (
    FILES,
    FOLDER,
    NAMES,
    NONE,
    cleans_spaces,
    examples,
    is_of_words,
    lead,
    specimen,
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


@pytest.mark.parametrize("character", ["a", "中"])
def test_a_word_without_end_is_made_tokens_and_ends_nobody(vocabulary: LlamaVocabulary, character: str) -> None:
    if is_of_words(vocabulary):
        pytest.skip("an embedding model's vocabulary: its tokens do not give a text back")
    text = character * 30_000
    tokens = vocabulary.tokenize(text, template_spans=[], add_bos=False)
    assert b"".join(map(vocabulary.piece, tokens)).decode().endswith(text)


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


# --- Ends ---


SAMPLINGS = (
    Sampling(),
    Sampling(logprobs=5),
    Sampling(temperature=1.0, top_k=40, seed=3),
    Sampling(repeat_penalty=1.1, stop=("never said", "fan of node 8")),
)


def test_no_end_token_is_shown_and_each_ends_an_answer(vocabulary: LlamaVocabulary) -> None:
    text = "Check the fan of node"
    said = [[token] for token in without_bos(vocabulary, vocabulary.tokenize(text, template_spans=[], add_bos=True))]
    expected = b"".join(vocabulary.piece(token) for (token,) in said).decode()
    assert vocabulary.end_tokens
    first, *others = sorted(vocabulary.end_tokens)
    tried = [(first, sampling) for sampling in SAMPLINGS] + list(zip(others, itertools.cycle(SAMPLINGS[::-1])))
    for end, sampling in tried:
        told, reason = answered(vocabulary, [*said, [end]], sampling)
        assert ("".join(event.text for event in told), reason) == (expected, "stop")
        assert [token for event in told for token in event.tokens] == [token for (token,) in said]
        pieces = [piece for event in told for one in event.logprobs for piece in (one.piece, *one.top_pieces)]
        assert len(pieces) == (0 if sampling.logprobs is None else len(said) * 6)
        assert vocabulary.text(end).encode() not in pieces
        # Where it is not to end, the next likeliest token is taken.
        ignored = msgspec.structs.replace(sampling, ignore_eos=True, max_tokens=len(said))
        told, reason = answered(vocabulary, [[*vocabulary.end_tokens, *one][-4:] for one in said], ignored)
        assert ("".join(event.text for event in told), reason) == (expected, "length")


def test_control_tokens_within_an_answer_are_not_shown(vocabulary: LlamaVocabulary) -> None:
    said = without_bos(vocabulary, vocabulary.tokenize("one two", template_spans=[], add_bos=True))
    pieces = [vocabulary.piece(token) for token in said]
    end = next(iter(vocabulary.end_tokens))
    controls = [token for token in vocabulary.control_tokens.values() if not vocabulary.is_end(token)]
    hidden = [token for token in controls if not vocabulary.piece(token)]
    assert set(controls) == set(hidden), [vocabulary.text(token) for token in set(controls) - set(hidden)]
    for control in hidden[:3]:
        wanted = [[said[0]], [control], *([token] for token in said[1:]), [control], [end]]
        told, _ = answered(vocabulary, wanted, Sampling(logprobs=2))
        assert "".join(event.text for event in told) == b"".join(pieces).decode()
        assert sum(len(event.tokens) for event in told) == len(said) + 2


@pytest.mark.parametrize(("name", "has_marks"), [("refact", True), ("llama-spm", False)])
def test_a_gap_is_marked_where_the_vocabulary_has_marks_and_control_tokens_are_spelled(
    name: str, has_marks: bool
) -> None:
    with specimen(name) as vocabulary:
        marks = vocabulary.infill
        assert (marks is not None) == has_marks
        if marks is not None:
            spelled = [vocabulary.spelled(token) for token in (marks.prefix, marks.suffix, marks.middle)]
            assert spelled == [b"<fim_prefix>", b"<fim_suffix>", b"<fim_middle>"]
        text = "a b"
        tokens = vocabulary.tokenize(text, template_spans=[], add_bos=False)
        assert b"".join(map(vocabulary.spelled, tokens)).decode() == text
