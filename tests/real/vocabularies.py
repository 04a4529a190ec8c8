"""The vocabularies that llama.cpp's source carries, with texts and the tokens that its authors say they have.

The set-up leaves them in .cache/llama-vocabs; `TP_VOCABS` names another folder. What needs them is skipped without.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp.llama_cpp as lib
import pytest

from tests.support import ROOT
from workers.engine.detokenizer import Detokenizer
from workers.llama.backend import messages
from workers.llama.vocabulary import LlamaVocabulary

FOLDER = Path(os.environ.get("TP_VOCABS", ROOT / ".cache" / "llama-vocabs"))
FILES = sorted(FOLDER.glob("ggml-vocab-*.gguf"))
NAMES = [path.stem.removeprefix("ggml-vocab-") for path in FILES]
NONE = f"no vocabularies of llama.cpp's source in {FOLDER}: see TP_VOCABS"
SPECIMENS = ("gemma-4", "llama-bpe", "llama-spm", "phi-3", "qwen2")
"""One of each kind that is served: byte pairs with a token for each byte, SentencePiece with bytes to fall back on."""
_SEPARATOR = "\n__ggml_vocab_test__\n"


@contextlib.contextmanager
def vocabulary_of(path: Path) -> Iterator[LlamaVocabulary]:
    """As a worker has it: but these are no models, which a worker says when it is given one."""
    messages()
    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, path
    try:
        yield LlamaVocabulary(model, None, path)
    finally:
        lib.llama_model_free(model)


@contextlib.contextmanager
def specimen(name: str) -> Iterator[LlamaVocabulary]:
    """One by its name; the test is skipped where it was not left."""
    path = FOLDER / f"ggml-vocab-{name}.gguf"
    if not path.is_file():
        pytest.skip(NONE)
    with vocabulary_of(path) as found:
        yield found


def examples(path: Path) -> list[tuple[str, list[int]]]:
    """Texts and their tokens, without BOS, read as llama.cpp's test-tokenizer-0 reads them; none of some."""
    inputs, outputs = path.with_name(path.name + ".inp"), path.with_name(path.name + ".out")
    if not inputs.is_file():
        return []
    texts = inputs.read_bytes().decode().removesuffix(_SEPARATOR).split(_SEPARATOR)
    tokens = [[int(number) for number in line.split()] for line in outputs.read_text().splitlines()]
    return list(zip(texts, tokens, strict=True))


def is_of_words(vocabulary: LlamaVocabulary) -> bool:
    """Whether it is an embedding model's, whose tokens do not give a text back (WordPiece, Unigram)."""
    return lib.llama_vocab_type(vocabulary.pointer) in (lib.LLAMA_VOCAB_TYPE_WPM, lib.LLAMA_VOCAB_TYPE_UGM)


def lead(vocabulary: LlamaVocabulary) -> str:
    """What it puts before a text of its own: a space, by the older SentencePiece ones."""
    (*_, last) = vocabulary.tokenize("x", template_spans=[], add_bos=True)
    return vocabulary.piece(last).decode().removesuffix("x")


def cleans_spaces(vocabulary: LlamaVocabulary) -> bool:
    """Whether llama_detokenize takes the space from before a full stop; a stream of pieces never does."""
    return text_by_llama_cpp(vocabulary, vocabulary.tokenize("a .", template_spans=[], add_bos=False)) == "a."


def without_bos(vocabulary: LlamaVocabulary, tokens: list[int]) -> list[int]:
    if not vocabulary.adds_bos:
        return tokens
    assert tokens[:1] == [vocabulary.bos]
    return tokens[1:]


def text_by_llama_cpp(vocabulary: LlamaVocabulary, tokens: Sequence[int]) -> str:
    """What its own llama_detokenize makes of tokens that follow others, special ones left out."""
    given = (lib.llama_token * len(tokens))(*tokens)
    buffer = ctypes.create_string_buffer(64 * len(tokens) + 64)
    length = lib.llama_detokenize(vocabulary.pointer, given, len(given), buffer, len(buffer), False, False)
    assert length >= 0
    return buffer.raw[:length].decode()


def streamed(pieces: Sequence[bytes], stop: tuple[str, ...] = (), known: int = 0) -> list[str]:
    """The texts that become sendable piece by piece, and the rest; the first `known` pieces were sent by another."""
    detokenizer = Detokenizer(stop)
    for piece in pieces[:known]:
        detokenizer.add(piece)
    found = []
    for piece in pieces[known:]:
        found.append(detokenizer.add(piece))
        if detokenizer.stopped:
            return found
    return [*found, detokenizer.finish()]
