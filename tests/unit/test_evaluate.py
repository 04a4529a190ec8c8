from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from broker.messages import Score
from producers.evaluate import Answered, EvalError, Item, accuracies, evaluate, read_items

WINOGRANDE = {"sentence": "Ann met Bo because _ was late .", "option1": "Ann", "option2": "Bo", "answer": "2"}


def score(start: int, tokens: str, *logprobs: float) -> Score:
    """A token a character."""
    return Score(sum(logprobs), len(tokens), False, start, tuple(map(ord, tokens)), logprobs)


def test_winogrande_is_read_from_both_of_its_forms(tmp_path: Path) -> None:
    lines, table = tmp_path / "x.jsonl", tmp_path / "x.csv"
    lines.write_text(json.dumps(WINOGRANDE) + "\n\n")
    table.write_text('0,"Ann met Bo because _ was late .",Ann,Bo,2\n')
    wanted = Item(1, "Ann met Bo because ", ("Ann", "Bo"), 1, " was late .")
    assert read_items(lines) == read_items(table) == [wanted]
    assert wanted.continuations == ("Ann", "Ann was late .", "Bo", "Bo was late .")
    table.write_text("index,sentence,option1,option2,answer\n0,_'s here,Ann,Bo,1\n")
    (item,) = read_items(table)
    assert item.continuations == ("Ann", "Ann's here", "Ann 's here", "Bo", "Bo's here", "Bo 's here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no items"),
        ("nonsense", r":1: is not JSON"),
        ('{"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"}', r":1: is no item: .*no _"),
        ('{"context": "x", "choices": ["a", "b"], "label": 2}', r":1: is no item: .*names none"),
        ('{"context": "x", "choices": ["a"], "label": 0}', r":1: is no item"),
        ('{"context": "x"}', r":1: is no item: KeyError 'label'"),
    ],
)
def test_a_bad_item_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(EvalError, match=message):
        read_items(path)


def test_partial_scoring_sums_what_follows_the_option() -> None:
    item = Item(1, "c ", ("A", "BB"), 0, " wxyz")
    # The context has 5 tokens; the options 1 and 2; four of the rest follow.
    scores = [
        score(5, "A", -9),
        score(5, "Awxyz", -9, -1, -1, -1, -5),
        score(5, "BB", -1, -1),
        score(5, "BBwxyz", -1, -1, -2, -2, -2, -2),
    ]
    found = evaluate(item, scores)
    assert found.scores["partial"] == (-8, -8)
    # llama.cpp's: the mean, without the last token.
    assert found.scores["llama.cpp"] == (-1, -2)
    assert (found.chosen("partial"), found.chosen("llama.cpp")) == (0, 0)


def test_where_few_tokens_differ_llama_cpps_tool_scores_the_option_too() -> None:
    item = Item(1, "c ", ("A", "B"), 0, " w")
    scores = [score(5, "A", -9), score(5, "Aw", -9, -1), score(5, "B", -1), score(5, "Bw", -1, -2)]
    found = evaluate(item, scores)
    assert found.scores["partial"] == (-1, -2)
    assert found.scores["llama.cpp"] == (-9, -1), "without the last, only the option is left"


def test_options_that_begin_alike_share_their_first_tokens() -> None:
    item = Item(1, "c ", ("XA", "XB"), 0, "wxyz")
    texts = {"XA": (-3, -9), "XB": (-3, -1)}
    scores = []
    for text in item.continuations:
        head = texts[text[:2]]
        scores.append(score(5, text, *head, *(-1.0 for _ in text[2:])))
    assert evaluate(item, scores).scores["llama.cpp"] == (-1, -1)


def test_other_choices_by_sum_and_by_length() -> None:
    item = Item(1, "c", ("yes", "certainly"), 1)
    found = evaluate(item, [score(1, "yes", -1, -1, -1), score(1, "certainly", *[-0.5] * 9)])
    assert found.scores == {"sum": (-3, -4.5), "normalised": (-1, -0.5)}
    assert (found.chosen("sum"), found.chosen("normalised")) == (0, 1)


def test_accuracy_has_its_standard_error() -> None:
    answers = [Answered(n, 0, {"sum": (1.0, 0.0) if n < 30 else (0.0, 1.0)}) for n in range(40)]
    (found,) = accuracies(answers)
    assert (found.count, found.accuracy) == (40, 0.75)
    assert found.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 39))
    assert accuracies([]) == []


def test_of_equal_scores_each_tool_takes_its_own() -> None:
    answered = Answered(1, 0, {"partial": (1.0, 1.0), "llama.cpp": (1.0, 1.0)})
    assert (answered.chosen("partial"), answered.chosen("llama.cpp")) == (0, 1)
