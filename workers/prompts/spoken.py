"""An answer's tokens as they stand in its conversation's history: they spell what the client was sent. Pure.

A stop text ends an answer and is no part of it, a character that was cut is sent as U+FFFD, and a control token has no
text at all: whoever sends the conversation back sends none of those, and a worker that remembers it must not put them
into the next prompt either.
"""

from __future__ import annotations

from collections.abc import Sequence

from workers.engine.protocol import Vocabulary

RETOKENIZED = 8
"""Where the plain text's tokens differ from the generated ones in so few of the last, they are taken: then the prompt
is the very one of a worker that remembers nothing, and a few tokens are computed for it."""


def num_spoken(vocabulary: Vocabulary, tokens: Sequence[int], text: bytes) -> tuple[int, int]:
    """How many leading tokens spell a beginning of `text`, and how many bytes of it. A token without text ends it."""
    num_bytes = 0
    for index, token in enumerate(tokens):
        piece = vocabulary.piece(token)
        if not piece or not text.startswith(piece, num_bytes):
            return index, num_bytes
        num_bytes += len(piece)
    return len(tokens), num_bytes


def as_spoken(vocabulary: Vocabulary, tokens: Sequence[int], text: str) -> list[int]:
    """The tokens of an answer that was sent as `text`: those that were generated, as far as they spell it."""
    encoded = text.encode()
    num_tokens, num_bytes = num_spoken(vocabulary, tokens, encoded)
    if num_tokens == len(tokens) and num_bytes == len(encoded):
        return list(tokens)
    kept = list(tokens[:num_tokens])
    plain = vocabulary.tokenize(text, template_spans=[], add_bos=False) if text else []
    if plain[: max(0, num_tokens - RETOKENIZED)] == kept[: max(0, num_tokens - RETOKENIZED)]:
        return plain
    while kept and num_bytes < len(encoded) and encoded[num_bytes] & 0xC0 == 0x80:
        num_bytes -= len(vocabulary.piece(kept.pop()))  # ends within a character: what is left would be no text
    rest = encoded[num_bytes:].decode()
    return kept + (vocabulary.tokenize(rest, template_spans=[], add_bos=False) if rest else [])


def ends_with(vocabulary: Vocabulary, tokens: Sequence[int], text: str) -> bool:
    """Whether the tokens' text ends with `text`."""
    rest = text.encode()
    for token in reversed(tokens):
        if not rest:
            break
        piece = vocabulary.piece(token)
        if not (rest.endswith(piece) or piece.endswith(rest)):
            return False
        rest = rest[: max(0, len(rest) - len(piece))]
    return not rest
