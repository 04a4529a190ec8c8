"""Follows a grammar byte by byte, with a vocabulary of bytes: which texts are its own, and some that it makes."""

from __future__ import annotations

import random

from workers.grammars.frames import IS_ACCEPTING, IS_DONE
from workers.grammars.matcher import Matcher, TokenTable

END = 256
_CLOSERS = frozenset(b'"]}')


class Bytes:
    """A vocabulary of single bytes."""

    num_tokens = 257
    end_tokens = frozenset({END})

    def is_end(self, token: int) -> bool:
        return token == END

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < END else b""


TABLE = TokenTable(Bytes())


def accepts(gbnf: str, text: str) -> bool:
    """Whether the whole text is one of the grammar's."""
    matcher = Matcher(TABLE, gbnf)
    return all(matcher.take(byte) for byte in text.encode()) and bool(matcher.flags & IS_ACCEPTING)


def made(gbnf: str, seed: int, max_bytes: int = 4000) -> str:
    """A text that the grammar makes by chance, more and more in a hurry to end."""
    matcher, chance, text = Matcher(TABLE, gbnf), random.Random(seed), bytearray()
    while not matcher.flags & IS_DONE and len(text) < max_bytes:
        if matcher.flags & IS_ACCEPTING and chance.random() < 0.3:
            break
        mask = matcher.mask()
        allowed = [byte for byte in range(END) if mask[byte >> 3] >> (byte & 7) & 1]
        hurry = [byte for byte in allowed if byte in _CLOSERS]
        if len(allowed) > 40:  # inside a string: to its end, or by capitals to where a pattern lets it end
            hurry = [byte for byte in allowed if chr(byte) in '"\n'] or [
                byte for byte in allowed if chr(byte).isupper()
            ]
        if hurry and chance.random() < 0.1 + len(text) / 400:
            allowed = hurry
        byte = chance.choice(allowed)
        assert matcher.take(byte)
        text.append(byte)
    assert matcher.flags & IS_ACCEPTING, f"no end in sight: {bytes(text)!r}"
    return text.decode()
