"""The steps that a server took, from what it says: a worker at DEBUG, llama-server at `-lv 5` with time stamps.

Both are told in the same words, so that one table has them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Span:
    """Tokens of one sequence in a step, behind `start` that were in the cache before."""

    start: int
    num_tokens: int


@dataclass(frozen=True)
class Step:
    """One call of llama_decode, and the choice of the tokens that it gave."""

    seconds: float
    prefill: tuple[Span, ...] = ()
    """Of prompts."""
    decode: tuple[Span, ...] = ()
    """Of answers."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """All of them."""
        return self.prefill + self.decode

    @property
    def num_tokens(self) -> int:
        """That were computed."""
        return sum(span.num_tokens for span in self.spans)

    @property
    def num_sequences(self) -> int:
        """That had a part in it."""
        return len(self.spans)

    @property
    def num_before(self) -> int:
        """Tokens of its sequences that were in the cache."""
        return sum(span.start for span in self.spans)

    @property
    def num_pairs(self) -> int:
        """Of a token that was computed and one before it that was in the cache: what attention looks at."""
        return sum(span.start * span.num_tokens for span in self.spans)


# --- A worker's ---

_OURS = re.compile(r" step seconds=(\d+\.\d+) prefill=(\S+) decode=(\S+)$")


def of_worker(lines: Iterable[str]) -> list[Step]:
    """The steps of a worker's log at DEBUG."""
    found = (_OURS.search(line.rstrip("\n")) for line in lines)
    return [Step(float(one[1]), _spans(one[2]), _spans(one[3])) for one in found if one]


def _spans(text: str) -> tuple[Span, ...]:
    if text == "-":
        return ()
    pairs = (one.partition("+") for one in text.split(","))
    return tuple(Span(int(start), int(num_tokens)) for start, _, num_tokens in pairs)


# --- llama-server's ---

_STAMP = re.compile(r"^(\d+)\.(\d\d)\.(\d{3})\.(\d{3}) ")
"""Minutes, seconds, milliseconds, microseconds since it was started."""
_SLOT = re.compile(r"slot .*?: id +(\d+) \| task -?\d+ \| (.*)")
_NEW_PROMPT = re.compile(r"new prompt, .*task\.n_tokens = (\d+)")
_PROMPT = re.compile(r"cached n_tokens = (\d+), memory_seq_rm \[")
_TOKEN = re.compile(r"slot decode token, .*n_tokens = (\d+)")
_DRAFT = re.compile(r"generate_draft: .*#tokens=(\d+), #draft=(\d+)")
_CHOSEN = re.compile(r"n_gen = \d+, n_remaining = ")


@dataclass
class _Taken:
    """A step while it is read. The end of a prompt's part is known by what is said next of its slot."""

    began_at: float | None = None
    ended_at: float | None = None
    prompts: dict[int, int] = field(default_factory=dict)
    """Where the part of each slot's prompt begins …"""
    ends: dict[int, int] = field(default_factory=dict)
    """… and ends."""
    decode: list[Span] = field(default_factory=list)

    def step(self) -> Step:
        assert self.began_at is not None
        assert self.ended_at is not None
        prefill = (Span(start, self.ends[slot] - start) for slot, start in self.prompts.items() if slot in self.ends)
        return Step(self.ended_at - self.began_at, tuple(prefill), tuple(self.decode))


class _Reader:
    """Takes its lines in order."""

    def __init__(self) -> None:
        self.taken: list[_Taken] = []
        self._now = _Taken()
        self._last_part: dict[int, _Taken] = {}
        """By slot, the step with the last part of its prompt, whose end is not known yet."""
        self._prompt_end: dict[int, int] = {}
        """By slot, how long the prompt is that it has."""

    def take(self, line: str) -> None:
        stamp = _STAMP.match(line)
        if stamp is None:
            return
        minutes, seconds, milliseconds, microseconds = map(int, stamp.groups())
        at = 60 * minutes + seconds + milliseconds / 1e3 + microseconds / 1e6
        if slot := _SLOT.search(line):
            self._of_slot(int(slot[1]), slot[2], at)
        elif "n_batch (effective) = " in line:
            # A second one without an end between is the same step, tried again or gone on with.
            self._now.began_at = at if self._now.began_at is None else self._now.began_at
        elif "posting NEXT_RESPONSE" in line or "all slots are idle" in line:
            self.close(at)

    def _of_slot(self, slot: int, said: str, at: float) -> None:
        if one := _NEW_PROMPT.match(said):
            self._prompt_ends(slot)
            self._prompt_end[slot] = int(one[1])
        elif one := _PROMPT.match(said):
            self._prompt_goes_on_at(slot, int(one[1]))
        elif one := _TOKEN.match(said):
            self._prompt_ends(slot)
            self._now.decode.append(Span(int(one[1]), 1))
        elif one := _DRAFT.match(said):
            self._prompt_ends(slot)
            self._now.decode.append(Span(int(one[1]), 1 + int(one[2])))
        elif _CHOSEN.match(said):
            self._now.ended_at = at

    def _prompt_goes_on_at(self, slot: int, start: int) -> None:
        if (before := self._last_part.get(slot)) is not None:
            before.ends[slot] = start
        self._now.prompts[slot] = start
        self._last_part[slot] = self._now

    def _prompt_ends(self, slot: int) -> None:
        before = self._last_part.pop(slot, None)
        if before is not None and slot in self._prompt_end:
            before.ends[slot] = self._prompt_end[slot]

    def close(self, at: float) -> None:
        """The round is over; one that computed nothing is none."""
        if self._now.began_at is not None:
            # Where no token was to be chosen, the next round begins as soon as the step has ended.
            self._now.ended_at = at if self._now.ended_at is None else self._now.ended_at
            self.taken.append(self._now)
            self._now = _Taken()

    def end(self) -> list[Step]:
        for slot in list(self._last_part):
            self._prompt_ends(slot)
        return [step for one in self.taken if (step := one.step()).spans]


def of_llama_server(lines: Iterable[str]) -> list[Step]:
    """The steps of llama-server's log, with `-lv 5 --log-prefix --log-timestamps`."""
    reader = _Reader()
    for line in lines:
        reader.take(line)
    return reader.end()
