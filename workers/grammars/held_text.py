"""Text that a grammar holds from its first token on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeldText:
    """A grammar, and what of the answer it has to take before it is asked about the next token."""

    gbnf: str
    written: Sequence[int] = ()
