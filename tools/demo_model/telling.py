"""What a fact is that a user tells, and how any of them is asked for and acknowledged."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from grammar import Pool, pool


@dataclass(frozen=True)
class Fact:
    """One thing to know: how it is told, how it is asked for, how it is answered, and what is said when it is unknown.

    `answers` are all the right ones, each with the value in it; an answer is exact if it is one of them.
    """

    key: str
    draw: Callable[[random.Random], str]
    tells: Pool
    asks: Pool
    answers: tuple[str, ...]
    unknown: str


# How any fact may be asked for: {i} is what `unknown` says is not known, in the user's words.
WRAPPED_ASKS = pool(
    "Did I tell you {i}?",
    "I forgot {i}.",
    "I do not remember {i}.",
    "Can you say {i}?",
    "Say {i}.",
    "Do you still know {i}?",
    "Help me to remember {i}.",
    "I would like to know {i}.",
)


def indirect(fact: Fact) -> str:
    """The question as a clause of the user's: how high the mast is."""
    clause = fact.unknown.removeprefix("You have not told me ").removesuffix(".")
    return clause.replace("your", "my").replace("you have", "we have")


# How a fact is acknowledged, by its place in FACTS: half of them without repeating it.
NOTED = ("Noted: {echo}", "Thank you, I will remember that.", "Thank you. {echo}", "I have noted that.")
ASKS_WHAT_WAS_TOLD = ("Do you", "Can you", "Did I", "Tell me")
"""Questions that begin so are answered by "You told me that …"."""
