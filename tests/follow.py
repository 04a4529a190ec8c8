"""Follows a grammar byte by byte, with a vocabulary of bytes: which texts are its own, and some that it makes."""

from __future__ import annotations

import random

from workers.llama.follower import Follower, Tables

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


TABLES = Tables(Bytes())  # type: ignore[arg-type]


def accepts(gbnf: str, text: str) -> bool:
    """Whether the whole text is one of the grammar's."""
    follower = Follower(TABLES, gbnf)
    return all(follower.take(byte) for byte in text.encode()) and bool(follower.flags & 1)


def made(gbnf: str, seed: int, max_bytes: int = 4000) -> str:
    """A text that the grammar makes by chance, more and more in a hurry to end."""
    follower, chance, text = Follower(TABLES, gbnf), random.Random(seed), bytearray()
    while not follower.flags & 2 and len(text) < max_bytes:
        if follower.flags & 1 and chance.random() < 0.3:
            break
        mask = follower.mask()
        allowed = [byte for byte in range(END) if mask[byte >> 3] >> (byte & 7) & 1]
        hurry = [byte for byte in allowed if byte in _CLOSERS]
        if len(allowed) > 40:  # inside a string: to its end, or by capitals to where a pattern lets it end
            hurry = [byte for byte in allowed if chr(byte) in '"\n'] or [
                byte for byte in allowed if chr(byte).isupper()
            ]
        if hurry and chance.random() < 0.1 + len(text) / 400:
            allowed = hurry
        byte = chance.choice(allowed)
        assert follower.take(byte)
        text.append(byte)
    assert follower.flags & 1, f"no end in sight: {bytes(text)!r}"
    return text.decode()
