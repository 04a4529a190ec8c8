"""`POST /tokenize` and `/detokenize`: texts ↔ tokens of a model. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.messages import Done, Sampling
from producers.gateway.dialect import Asked
from producers.gateway.rendering import PromptWriter

MOST_TOKENS = 100_000
FIRST = 0
"""A token that every model has."""


class _Body(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the two have in common."""

    model: Annotated[str, Meta(max_length=256)] = ""

    @property
    def is_streamed(self) -> bool:
        """Never."""
        return False

    @property
    def conversation(self) -> str | None:
        """Of none."""
        return None

    @property
    def ignored(self) -> Sequence[str]:
        """Nothing."""
        return ()

    def check(self) -> None:
        """Nothing must be refused."""


class TokenizeBody(_Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text, or texts and tokens one after the other."""

    content: str | Annotated[tuple[int | str, ...], Meta(max_length=MOST_TOKENS)] = ""
    add_special: bool = False
    """With what the model's prompts begin and end with."""
    parse_special: bool = True
    """Control tokens that are written out are those."""
    with_pieces: bool = False

    def asked(self) -> Sequence[Asked]:
        """The one turn, which makes tokens and no answer."""
        parts = self.content if isinstance(self.content, tuple) and self.content else (self.content or "",)
        more = {"kind": "prompt", "prompt": parts, "bare": not self.add_special, "as_text": not self.parse_special}
        return [Asked((), Sampling(), is_raw=True, more=more)]

    def writer(self, turn: str, model: str) -> PromptWriter:
        """Of the tokens."""
        return PromptWriter(self._tokens)

    def _tokens(self, done: Done) -> dict[str, Any]:
        if not self.with_pieces:
            return {"tokens": [*done.tokens]}
        pairs = zip(done.tokens, done.pieces, strict=True)
        return {"tokens": [{"id": token, "piece": _piece(piece)} for token, piece in pairs]}


class DetokenizeBody(_Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Tokens of a model."""

    tokens: Annotated[tuple[int, ...], Meta(max_length=MOST_TOKENS)] = ()

    def asked(self) -> Sequence[Asked]:
        """The one turn, which makes a text of them and no answer."""
        more = {"kind": "prompt", "prompt": (FIRST, *self.tokens)}
        return [Asked((), Sampling(), is_raw=True, more=more)]

    def writer(self, turn: str, model: str) -> PromptWriter:
        """Of the text."""
        return PromptWriter(lambda done: {"content": b"".join(done.pieces[1:]).decode(errors="replace")})


def _piece(piece: bytes) -> str | list[int]:
    """A text where it is one, else bytes: a token may be a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return [*piece]
