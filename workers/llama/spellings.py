"""One pattern for thousands of spellings: they share their beginnings, so that a text that begins like all of them, `<`
after `<`, is not held against each."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import groupby


def longest_of(spellings: Collection[str]) -> re.Pattern[str]:
    """Finds at each place the longest spelling that stands there; nothing, where there are none."""
    words = sorted(set(spellings) - {""})
    return re.compile(_any_of(words) if words else r"(?!)")


def _any_of(words: list[str]) -> str:
    """Of sorted words, of which the first may be empty: then nothing is one too, and the last choice."""
    if not words[-1]:
        return ""
    is_optional = not words[0]
    branches = []
    for _, group in groupby(words[is_optional:], key=lambda word: word[0]):
        alike = list(group)
        shared = _shared(alike[0], alike[-1])
        branches.append(re.escape(shared) + _any_of([word.removeprefix(shared) for word in alike]))
    return f"(?:{'|'.join(branches)}){'?' if is_optional else ''}"


def _shared(one: str, other: str) -> str:
    """What both begin with: of sorted words' first and last that is what all begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))]
