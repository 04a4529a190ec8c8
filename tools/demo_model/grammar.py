"""What the corpus is written with: templates, the values that fill them, and how both are split.

A template is text with choices, `[a|b]`, which may nest, and slots, `{name}`. One in four of a pool's templates is held
out, which, a hash says: it never occurs in training. So is every tenth filling, by a hash of its words.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "fillings", "templates"]
"""Training; training's templates with fillings that it never had; templates that it never had, and such fillings."""

HELD_OUT_EVERY = 4
_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def expand(template: str, rng: random.Random, **slots: object) -> str:
    """One of the template's texts, its slots filled."""
    while found := _CHOICE.search(template):
        template = template[: found.start()] + rng.choice(found[1].split("|")) + template[found.end() :]
    return template.format(**slots)


@dataclass(frozen=True)
class Pool:
    """Templates that say the same thing."""

    templates: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """Those that a split may use. A pool of fewer than four has none to hold out, and serves every split."""
        ranked = sorted(self.templates, key=lambda template: zlib.crc32(template.encode()))
        held_out = ranked[: len(ranked) // HELD_OUT_EVERY]
        if split == "templates" and held_out:
            return tuple(held_out)
        return tuple(template for template in self.templates if template not in held_out)

    def pick(self, rng: random.Random, split: Split) -> str:
        return rng.choice(self.of(split))


def pool(*templates: str) -> Pool:
    return Pool(templates)


def is_held_out(*words: object) -> bool:
    """Whether a filling belongs to the held-out tenth."""
    return zlib.crc32("|".join(map(str, words)).encode()) % 10 == 0


def filling(rng: random.Random, split: Split, kind: str, draw: Callable[[random.Random], str]) -> str:
    """A value on the split's side of the line between training and held-out fillings."""
    while True:
        value = draw(rng)
        if is_held_out(kind, value) == (split != "train"):
            return value


# --- Values ----------------------------------------------------------------------------------------------------------


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = words("b br d dr f g gr h j k kl l m n p r s sk st t tr v")
_VOWELS = words("a e i o u")
_MIDDLES = words("l ld lm n nd nt r rk rm rs s st v ll nn t d k m")
_ENDINGS = words("a e i o en ar ik in el on und berg dal vik mar sund ton by")

NUMBERS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_TENS = words("zero ten twenty thirty forty")
WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
COLOURS = words("red blue green grey yellow white black brown orange")
CONTAINERS = words("drawer box cupboard locker bag crate case tray")


def in_words(number: int) -> str:
    """0 … 49 spelled out."""
    if number <= 20:
        return NUMBERS[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{NUMBERS[ones]}" if ones else "")


def name(rng: random.Random) -> str:
    """A coined name, of a place, a person or a machine: some two million."""
    word = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_MIDDLES)
    if rng.random() < 0.3:
        word += rng.choice(_VOWELS) + rng.choice(_MIDDLES)
    return (word + rng.choice(_ENDINGS)).capitalize()


def whole(least: int, most: int, step: int = 1) -> Callable[[random.Random], str]:
    return lambda rng: str(rng.randrange(least, most + 1, step))


def digits(count: int) -> Callable[[random.Random], str]:
    return lambda rng: "".join(rng.choice("0123456789") for _ in range(count))


def rack(rng: random.Random) -> str:
    return f"{rng.choice('ABCDEFGHKLMNPRST')}{rng.randrange(1, 60)}"


def contract(rng: random.Random) -> str:
    return f"{rng.choice('ABCDEFGHKLMNPRST')}-{rng.randrange(100, 1000)}"


def clock(rng: random.Random) -> str:
    return f"{rng.randrange(6, 24)}:{rng.choice('012345')}{rng.choice('05')}"


def appointment(rng: random.Random) -> str:
    return f"{rng.choice(WEEKDAYS)} at {clock(rng)}"


def place(rng: random.Random) -> str:
    return f"the {rng.choice(COLOURS)} {rng.choice(CONTAINERS)} {rng.choice(('in', 'under', 'behind', 'beside'))} " + (
        f"rack {rack(rng)}"
        if rng.random() < 0.5
        else f"the {rng.choice(('door', 'desk', 'stairs', 'rectifier', 'fan'))}"
    )
