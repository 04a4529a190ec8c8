"""What the scores of a question's candidates make of it: right or wrong, by each method in use. Pure.

Winogrande by the two methods in use. *partial*, lm-evaluation-harness's (after Trinh and Le 2018): the option stands in
the sentence, and what follows it is scored, by the sum. *llama.cpp*, that of its perplexity tool: the mean over what
follows the option, without the last token, or over the option too where less than four tokens differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from broker.messages import Score
from producers.evaluate.items import Item

MIN_TRAILING_TOKENS = 3
"""llama.cpp's k_min_trailing_ctx."""


class Answered(Struct, frozen=True):
    """An item's outcome: by each method, the scores of the choices and the one chosen."""

    number: int
    label: int
    scores: dict[str, tuple[float, ...]]

    def chosen(self, method: str) -> int:
        """The best score's; of equal ones the first, but by llama.cpp's tool, which takes the second."""
        scores = self.scores[method]
        if method == "llama.cpp":
            return 0 if scores[0] > scores[1] else 1
        return scores.index(max(scores))


class Accuracy(Struct, frozen=True):
    """Of one method: how many items, the share that was right, and its standard error √(p(1 − p) ÷ (n − 1))."""

    method: str
    count: int
    accuracy: float
    standard_error: float | None


def evaluate(item: Item, scores: Sequence[Score]) -> Answered:
    """What each method makes of the scores of the item's continuations."""
    by_text = dict(zip(item.continuations, scores, strict=True))
    if item.rest is None:
        sums = tuple(by_text[choice].logprob for choice in item.choices)
        # As lm-evaluation-harness's acc_norm: by the choice's length in characters.
        norm = tuple(value / max(1, len(choice)) for value, choice in zip(sums, item.choices, strict=True))
        return Answered(item.number, item.label, {"sum": sums, "normalised": norm})
    harness = tuple(_after(by_text[item.harness_text(choice)], _end(by_text[choice])) for choice in item.choices)
    one, two = (by_text[choice + item.rest] for choice in item.choices)
    bases = [_end(by_text[choice]) for choice in item.choices]
    # Where nothing stands in front, a model without BOS scores from the second token on, and the first may differ.
    texts = [choice + item.rest for choice in item.choices]
    max_shared = _num_shared(*texts) if not item.context else max(map(len, texts))
    llama_cpp = _llama_cpp(one, two, bases, max_shared)
    return Answered(item.number, item.label, {"partial": harness, "llama.cpp": llama_cpp})


def _num_shared(one: Sequence[object], two: Sequence[object]) -> int:
    """How many items they begin alike with."""
    shared = 0
    while shared < min(len(one), len(two)) and one[shared] == two[shared]:
        shared += 1
    return shared


def _end(score: Score) -> int:
    """How many tokens context and continuation have together."""
    return score.start + len(score.tokens)


def _after(score: Score, base: int) -> float:
    """The sum from the text's token `base` on."""
    return sum(score.logprobs[max(0, base - score.start) :])


def _llama_cpp(one: Score, two: Score, bases: Sequence[int], max_shared: int) -> tuple[float, float]:
    """As winogrande_score in llama.cpp's tools/perplexity has it.

    Where less than four tokens differ, that tool reads the second sentence's first logits from a wrong row (a FIXME of
    its own); this does not.
    """
    start = min(one.start, two.start)
    shared = _num_shared(one.tokens[start - one.start :], two.tokens[start - two.start :])
    common = start + min(shared, max_shared)
    ends = (_end(one), _end(two))
    if not all(end - common > MIN_TRAILING_TOKENS for end in ends):
        bases = (common, common)
    found = []
    for score, base, end in zip((one, two), bases, ends, strict=True):
        last = 1 if end - base > 1 else 0
        chosen = score.logprobs[base - score.start : len(score.logprobs) - last]
        found.append(sum(chosen) / len(chosen) if chosen else math.nan)
    return found[0], found[1]


def accuracies(answers: Sequence[Answered]) -> list[Accuracy]:
    """One for each method."""
    found = []
    for method in answers[0].scores if answers else ():
        count = len(answers)
        share = sum(one.chosen(method) == one.label for one in answers) / count
        error = math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None
        found.append(Accuracy(method, count, share, error))
    return found
