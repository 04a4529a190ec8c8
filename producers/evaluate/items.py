"""Multiple-choice questions from files: Winogrande's JSON lines and CSV, and `context`, `choices`, `label`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producers.data.rows import RowError, clean, is_csv, read_rows, summary

SHIPPED = Path(__file__).parent / "made_up.jsonl"
"""A hundred items in Winogrande's form, of our own making: fifty pairs of sentences that differ in what decides."""
_COLUMNS = ("index", "sentence", "option1", "option2", "answer")


class EvalError(RowError):
    """An evaluation's file that cannot be read, or a row of it; says which line."""


@dataclass(frozen=True)
class Item:
    """A question: `context`, the candidates that may follow it, and which is right. Winogrande's have a `rest`."""

    number: int
    context: str
    choices: tuple[str, ...]
    label: int
    rest: str | None = None

    @property
    def continuations(self) -> tuple[str, ...]:
        """What is scored behind the context, each text once."""
        if self.rest is None:
            return self.choices
        texts: dict[str, None] = {}
        for choice in self.choices:
            texts |= dict.fromkeys((choice, choice + self.rest, self.harness_text(choice)))
        return tuple(texts)

    def harness_text(self, choice: str) -> str:
        """lm-evaluation-harness puts one space between the option and what follows, whatever the sentence has."""
        assert self.rest is not None
        return f"{choice} {self.rest.strip()}"


def read_items(path: Path, left_out: list[EvalError] | None = None) -> list[Item]:
    """The questions of a file. A row that is none is added to `left_out`; raises EvalError where all are such."""
    left_out = [] if left_out is None else left_out
    found = []
    is_table, head = is_csv(path), list(_COLUMNS)
    for number, row in read_rows(path, left_out, EvalError):
        if is_table and number == 1 and "answer" in row:
            head = [name.strip() for name in row]
            continue
        if is_table and not row:
            continue
        try:
            found.append(_item(number, _columns(head, row) if is_table else row))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            left_out.append(EvalError(path, number, f"is no item: {type(error).__name__} {error}"))
    if not found:
        raise EvalError(path, None, f"no items: {summary(left_out)}" if left_out else "holds no items")
    return found


def _columns(head: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    if len(row) != len(head):
        raise ValueError(f"it has {len(row)} columns, not {len(head)}: {', '.join(head)}")
    return dict(zip(head, row, strict=True))


def _item(number: int, row: Any) -> Item:
    """Raises KeyError, ValueError, TypeError."""
    if not isinstance(row, dict):
        raise ValueError("it is not a JSON object")
    if "sentence" in row:
        before, blank, rest = _text(row, "sentence").partition("_")
        if not blank:
            raise ValueError("the sentence has no _")
        choices: tuple[str, ...] = (_text(row, "option1"), _text(row, "option2"))
        label = _number(row["answer"], "answer") - 1
    else:
        before, rest = _text(row, "context"), None
        right = row["label"]
        choices, names = _choices(row["choices"])
        label = names.index(right) if right in names else _number(right, "label")
    if not 0 <= label < len(choices) or len(choices) < 2:
        raise ValueError("its label names none of its choices")
    return Item(number, before, choices, label, rest)


def _text(row: dict[str, Any], field: str) -> str:
    if not isinstance(row[field], str):
        raise ValueError(f"its {field} is {repr(row[field])[:40]}, no text")
    return clean(row[field])


def _number(value: object, field: str) -> int:
    """A whole number, as a number or in digits: neither true nor 0.9 is one."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"its {field} is {repr(value)[:40]}, no whole number")
    return int(value)


def _choices(value: object) -> tuple[tuple[str, ...], list[object]]:
    """Their texts and, where they have some, their names: a list, or `{text: […], label: […]}` as ARC has it."""
    texts, names = (value.get("text"), value.get("label")) if isinstance(value, dict) else (value, None)
    if not isinstance(texts, list) or not all(isinstance(text, str | int | float) for text in texts):
        raise ValueError(f"its choices are {repr(value)[:40]}, no list of texts")
    if names is not None and (not isinstance(names, list) or len(names) != len(texts)):
        raise ValueError("its choices have not as many labels as texts")
    return tuple(clean(str(text)) for text in texts), [str(name) for name in names or ()]
