from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path

import msgspec
import pytest

from broker.messages import Score
from producers.evaluate.items import EvalError, Item, read_items
from producers.evaluate.methods import Answered, accuracies, evaluate
from producers.evaluate.stored import read_answers

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


GOOD = {"context": "The fan", "choices": [" turns", " stands"], "label": 0}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (WINOGRANDE | {"sentence": None}, "its sentence is None, no text"),
        (WINOGRANDE | {"option1": ["Ann"]}, r"its option1 is \['Ann'\], no text"),
        (WINOGRANDE | {"answer": ""}, "invalid literal"),
        (WINOGRANDE | {"answer": None}, "its answer is None, no whole number"),
        (WINOGRANDE | {"answer": 1.5}, "its answer is 1.5, no whole number"),
        (WINOGRANDE | {"answer": True}, "its answer is True, no whole number"),
        (GOOD | {"context": 7}, "its context is 7, no text"),
        (GOOD | {"choices": {"turns": 1, "stands": 2}}, "its choices are .*, no list of texts"),
        (GOOD | {"choices": "turns"}, "its choices are 'turns', no list of texts"),
        (GOOD | {"choices": [" turns", None]}, "its choices are .*, no list of texts"),
        (GOOD | {"choices": {"text": [" turns", " stands"], "label": ["A"]}}, "not as many labels as texts"),
        (GOOD | {"label": -1}, "names none of its choices"),
        ([GOOD], "it is not a JSON object"),
        (None, "it is not a JSON object"),
    ],
)
def test_a_row_that_is_no_item_costs_one_row(tmp_path: Path, row: object, problem: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (GOOD, row, WINOGRANDE)))
    left_out: list[EvalError] = []
    assert [item.number for item in read_items(path, left_out)] == [1, 3]
    assert [one.line for one in left_out] == [2]
    assert re.search(problem, left_out[0].reason)


@pytest.mark.parametrize(("label", "wanted"), [("B", 1), ("A", 0), (1, 1), ("1", 1)])
def test_choices_may_be_a_map_of_texts_and_labels(tmp_path: Path, label: object, wanted: int) -> None:
    choices = {"text": ["the fan", "the mast"], "label": ["A", "B"]}
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"context": "What stands still?", "choices": choices, "label": label}))
    assert read_items(path) == [Item(1, "What stands still?", ("the fan", "the mast"), wanted)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_separators_and_byte_order_marks_are_no_line_ends(tmp_path: Path, encoding: str) -> None:
    sentence = "The\u2028trophy\u2029did\x85not fit because _ was big 🎉 ."
    wanted = Item(1, sentence.partition("_")[0], ("Ann", "Bo"), 1, " was big 🎉 .")
    lines, table, packed = tmp_path / "x.jsonl", tmp_path / "x.csv", tmp_path / "x.json.gz"
    row = json.dumps(WINOGRANDE | {"sentence": sentence}, ensure_ascii=False)
    lines.write_bytes(f"{row}\r\n".encode(encoding))
    table.write_bytes(f'0,"{sentence}",Ann,Bo,2\r\n'.encode(encoding))
    packed.write_bytes(gzip.compress(f"[{row}]".encode(encoding)))
    assert read_items(lines) == read_items(table) == read_items(packed) == [wanted]


def test_rows_of_a_csv_of_another_shape_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'0,_ b,x,y\n1,"_\nb",x,y,1\n2,_ \xff,x,y,1\n\n3,_ c,x,y,2,z\n4,_ d,x,y,2\n')
    left_out: list[EvalError] = []
    assert [(item.number, item.rest) for item in read_items(path, left_out)] == [(2, "\nb"), (7, " d")]
    assert [one.line for one in left_out] == [1, 4, 6]
    assert "it has 4 columns, not 5: index, sentence" in left_out[0].reason


def test_a_csv_says_in_its_head_which_column_is_which(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("qID,answer,option2,option1,sentence\nq,2,Bo,Ann,Then _ went\n")
    assert read_items(path) == [Item(2, "Then ", ("Ann", "Bo"), 1, " went")]


def test_answers_are_read_back_whatever_became_of_a_line(tmp_path: Path) -> None:
    path, said = tmp_path / "out.jsonl", list[str]()
    lines = [msgspec.json.encode(Answered(n, 0, {"partial": (math.nan, -1.0)})) for n in (1, 2)]
    path.write_bytes(
        b"\xef\xbb\xbf" + b"\n".join([lines[0], b'{"number": 7, "lab\xff', b"", lines[1], lines[1], b'{"num'])
    )
    found = read_answers(path, said.append)
    assert [one.number for one in found] == [1, 2]
    assert [math.isnan(one) for one in found[0].scores["partial"]] == [True, False]
    assert len(said) == 1
    assert "1 row is left out: out.jsonl:2: is no record of an evaluation" in said[0]
    for cut in (b"{", lines[0][:-3]):
        path.write_bytes(cut)
        assert read_answers(path, said.append) == []
        assert path.read_bytes() == b""
    for other in (b"something else\n", b"something else", b"a note\nand half a", b"[1, 2, 3]"):
        path.write_bytes(other)
        with pytest.raises(EvalError, match="is no record of an evaluation"):
            read_answers(path, said.append)
        assert path.read_bytes() == other


def test_with_nothing_in_front_the_unscored_first_tokens_are_not_taken_for_shared() -> None:
    item = Item(1, "", ("A", "B"), 0, "wxyz")
    scores = [score(1, text[1:], *(-float(n) for n in range(1, len(text)))) for text in item.continuations]
    found = evaluate(item, scores)
    assert found.scores["llama.cpp"] == (-2.0, -2.0), "the mean of w, x and y, without the last"
    assert found.scores["partial"] == (-15, -15)


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
