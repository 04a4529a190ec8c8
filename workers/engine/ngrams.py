"""Where a sequence's latest tokens stood before: what followed them there is a guess at what follows them now. Pure.

A hash chain, as in deflate: a table has the latest position of each pair of tokens, a list the position before each
position that ended with the same pair. Of the latest few, the one that the most tokens before agree with is taken.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

MAX_MATCH = 16
"""Tokens that are compared, at most: with more in common nothing is surer."""
MAX_CHAIN = 16
"""Earlier places that are looked at, the latest first."""
_NONE = -1


@dataclass(frozen=True)
class Match:
    """The latest tokens end at an earlier position too, and so many of them are the same there."""

    position: int
    num_matched: int


class Ngrams:
    """The pairs of one sequence's tokens: a hundred bytes or so a token, a microsecond to add one or to find some."""

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}
        """The last position of each pair, by the position of its second token."""
        self._earlier = array("i")
        """For each position, the one before it that the same pair ends at."""
        self._found, self._found_for = _NONE, 0
        """The place that was found last, and for which position: where it goes on as the tokens did, it is still good,
        however many places the chain has put before it."""

    def find(self, tokens: list[int]) -> Match | None:
        """The best place where the last tokens of `tokens` stood before, at least two of them; None where there is
        none. `tokens` may only have grown since the last call, but for the last of them, which may be another."""
        self._add(tokens)
        last = len(tokens) - 1
        best, longest = _NONE, 1
        if self._found >= 0:
            best = self._found + last - self._found_for
            longest = _common(tokens, best, last)
        place = self._latest.get(_pair(tokens, last), _NONE) if last > 0 else _NONE
        for _ in range(MAX_CHAIN):
            if place < 0 or longest >= MAX_MATCH:
                break
            found = _common(tokens, place, last)
            if found > longest:
                best, longest = place, found
            place = self._earlier[place]
        self._found, self._found_for = (best, last) if longest > 1 else (_NONE, 0)
        return Match(best, longest) if longest > 1 else None

    def _add(self, tokens: list[int]) -> None:
        """All pairs but the last one, which is looked for."""
        latest, earlier = self._latest, self._earlier
        for position in range(len(earlier), len(tokens) - 1):
            pair = _pair(tokens, position) if position else _NONE
            earlier.append(latest.get(pair, _NONE))
            latest[pair] = position


def _pair(tokens: list[int], position: int) -> int:
    return tokens[position - 1] << 32 | tokens[position]


def _common(tokens: list[int], place: int, last: int) -> int:
    """How many tokens up to `place` are those up to `last`."""
    num = 0
    while num < MAX_MATCH and num <= place and tokens[place - num] == tokens[last - num]:
        num += 1
    return num


def following(tokens: list[int], match: Match, num_tokens: int) -> tuple[int, ...]:
    """The next tokens if they go on as they did behind the match: beyond the last known one they repeat from there."""
    begin = match.position + 1
    period = len(tokens) - begin
    return tuple(tokens[begin + index % period] for index in range(num_tokens))
