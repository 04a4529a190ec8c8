"""Text ↔ tokens with the model's own vocabulary."""

from __future__ import annotations

import ctypes
import re
import sys
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from workers.engine.protocol import Infill
from workers.grammars.remote_matcher import MatcherProcess
from workers.llama.spellings import longest_of

_UNKNOWN = lib.LLAMA_TOKEN_ATTR_UNKNOWN
_CONTROL = lib.LLAMA_TOKEN_ATTR_CONTROL
_USER_DEFINED = lib.LLAMA_TOKEN_ATTR_USER_DEFINED
_LSTRIP = lib.LLAMA_TOKEN_ATTR_LSTRIP
_RSTRIP = lib.LLAMA_TOKEN_ATTR_RSTRIP


MAX_RUN = 4096
"""Characters of a word, or of blanks: many vocabularies are cut into words by std::regex, which goes a call deeper with
each, and with some 20,000 through the end of the stack (DeepSeek's)."""
_RUN = re.compile(r"\S+|\s+")


def _is_markup(text: str) -> bool:
    """Whether it is no plain word and no white space, and can be broken."""
    return len(text) > 1 and not all(character.isalnum() or character.isspace() for character in text)


def in_pieces(text: str) -> list[str]:
    """The text, cut where MAX_RUN characters follow each other with no blank among them, or are all blanks."""
    if len(text) <= MAX_RUN:
        return [text]
    cuts = [0]
    for run in _RUN.finditer(text):
        cuts += range(run.start() + MAX_RUN, run.end(), MAX_RUN)
    return [text[start:end] for start, end in pairwise([*cuts, len(text)])]


def tokens_of(vocab: Any, text: str, *, parse_special: bool) -> list[int]:
    """As llama.cpp tokenises a text, without BOS; one of MAX_RUN characters in a row is tokenised in pieces."""
    if lib.llama_vocab_type(vocab) != lib.LLAMA_VOCAB_TYPE_BPE:
        return _tokens_of(vocab, text, parse_special)
    return [token for piece in in_pieces(text) for token in _tokens_of(vocab, piece, parse_special)]


def _tokens_of(vocab: Any, text: str, parse_special: bool) -> list[int]:
    data = text.encode()
    capacity = len(data) + 16
    buffer = (lib.llama_token * capacity)()
    count = lib.llama_tokenize(vocab, data, len(data), buffer, capacity, False, parse_special)
    if count < 0:
        capacity = -count
        buffer = (lib.llama_token * capacity)()
        count = lib.llama_tokenize(vocab, data, len(data), buffer, capacity, False, parse_special)
    assert count >= 0, "llama_tokenize needs more tokens than it said"
    return list(buffer[:count])


class LlamaVocabulary:
    """The vocabulary of a loaded model. llama.cpp's tokenizer is thread-safe, and so is this."""

    def __init__(self, model: Any, chat_template: str | None, path: Path) -> None:
        self.matcher_process = MatcherProcess([sys.executable, "-m", "workers.llama.matcher_process", str(path)])
        """What grammars are matched in; started when the first one comes."""
        self._model = model  # a reference: the vocabulary lives as long as the model
        self._vocab = lib.llama_model_get_vocab(model)
        self._chat_template = chat_template or ""
        self._pieces: dict[int, bytes] = {}
        self.num_tokens = lib.llama_vocab_n_tokens(self._vocab)
        self.bos = lib.llama_vocab_bos(self._vocab)
        self.eos = lib.llama_vocab_eos(self._vocab)
        self.begin = next((token for token in (self.bos, self.eos) if token >= 0), None)
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self._vocab))

    @property
    def pointer(self) -> Any:
        """The `llama_vocab *`, for samplers."""
        return self._vocab

    def text(self, token: int) -> str:
        """The token as the vocabulary spells it, control tokens too; empty for −1."""
        return "" if token < 0 else str(lib.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace"))

    def piece(self, token: int) -> bytes:
        """The token's text; empty for a control token."""
        piece = self._pieces.get(token)
        if piece is None:
            buffer = ctypes.create_string_buffer(256)
            length = lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            piece = self._pieces[token] = buffer.raw[:length]
        return piece

    def spelled(self, token: int) -> bytes:
        """The bytes that a token is written with, control tokens too."""
        return self.piece(token) or self.text(token).encode()

    @cached_property
    def infill(self) -> Infill | None:
        """Its marks around a gap, as llama.cpp finds them; None where one of the three is missing."""
        names = ("pre", "suf", "mid", "rep", "sep")
        pre, suf, mid, rep, sep = (int(getattr(lib, f"llama_vocab_fim_{name}")(self._vocab)) for name in names)
        if min(pre, suf, mid) < 0:
            return None
        return Infill(pre, suf, mid, rep if rep >= 0 else None, sep if sep >= 0 else None)

    def is_end(self, token: int) -> bool:
        """Whether it ends an answer."""
        return token in self.end_tokens

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Those that end an answer; a model may have several."""
        return frozenset(token for token in range(self.num_tokens) if lib.llama_vocab_is_eog(self._vocab, token))

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Spelling → token of all that a user's text must never become.

        Besides the control tokens proper: end tokens, and user-defined ones that the chat template is written with,
        as some files mark their turn tokens so. Line ends and words are no such: a template has them, as every text
        has, and Gemma's vocabulary has its runs of line ends as user-defined tokens.
        """
        tokens = {}
        for token in range(self.num_tokens):
            attributes = lib.llama_vocab_get_attr(self._vocab, token)
            if not attributes & (_CONTROL | _UNKNOWN | _USER_DEFINED):
                continue
            text = self.text(token)
            is_control = attributes & (_CONTROL | _UNKNOWN) or token in self.end_tokens
            if is_control or (_is_markup(text) and text in self._chat_template):
                tokens[text] = token
        tokens.pop("", None)
        return tokens

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return longest_of(self.control_tokens)

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        """As llama.cpp tokenises the whole text, except that control tokens count only inside `template_spans`.

        `add_bos` puts the model's BOS token first where the model wants one and the text does not begin with it;
        without it the text goes on from what came before.
        """
        found = list(self._pattern.finditer(text))
        # Span by span: a word that begins in a content must not take the first characters of the template's next one.
        own = [match for a, b in template_spans for match in self._pattern.finditer(text, a, b)]
        if [match.span() for match in own] == [match.span() for match in found]:
            begins_plain = not add_bos and not (own and own[0].start() == 0)
            tokens = self._continued(text, parse_special=True) if begins_plain else self._raw(text, parse_special=True)
        else:
            tokens = self._between(text, own)
        if add_bos and self.adds_bos and self.bos >= 0 and tokens[:1] != [self.bos]:
            tokens.insert(0, self.bos)
        return tokens

    def _between(self, text: str, specials: list[re.Match[str]]) -> list[int]:
        tokens: list[int] = []
        at = 0
        strip_left = False
        for match in [*specials, None]:
            fragment = text[at : match.start() if match else len(text)]
            token = self.control_tokens[match.group()] if match else -1
            attributes = lib.llama_vocab_get_attr(self._vocab, token) if match else 0
            fragment = fragment.lstrip() if strip_left else fragment
            fragment = fragment.rstrip() if attributes & _LSTRIP else fragment
            tokens += self._plain(fragment)
            if match:
                tokens.append(token)
                at = match.end()
                strip_left = bool(attributes & _RSTRIP)
        return tokens

    def _plain(self, text: str) -> list[int]:
        """Text in which no control token is recognised, whatever the vocabulary calls it."""
        if not text:
            return []
        tokens = self._raw(text, parse_special=False)
        controls = self.control_tokens.values()
        if not any(token in controls for token in tokens):
            return tokens
        # llama.cpp recognises user-defined tokens even here: broken after their first character, they are text.
        pieces: list[str] = []
        at = 0
        for match in self._pattern.finditer(text):
            pieces.append(text[at : match.start() + 1])
            at = match.start() + 1
        pieces.append(text[at:])
        rest = [token for piece in pieces[1:] for token in self._continued(piece, parse_special=False)]
        return self._raw(pieces[0], parse_special=False) + rest

    def _continued(self, text: str, *, parse_special: bool) -> list[int]:
        """Tokens of text that follows other text: without the space that some vocabularies put before a fragment."""
        lead = self._raw("\n", parse_special=False)
        tokens = self._raw("\n" + text, parse_special=parse_special)
        return tokens[len(lead) :] if tokens[: len(lead)] == lead else self._raw(text, parse_special=parse_special)

    def _raw(self, text: str, *, parse_special: bool) -> list[int]:
        return tokens_of(self._vocab, text, parse_special=parse_special)
