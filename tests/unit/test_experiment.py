from __future__ import annotations

import io

import pytest
from rich.console import Console

from broker.catalogue import read_catalogue
from producers.experiment.plan import Plan
from producers.experiment.rows import PUBLISHED, row
from producers.experiment.table import markdown, table
from producers.records.files import Run
from producers.records.lines import Header, TurnRecord


def run(model: str, *outcomes: str) -> Run:
    turns = [
        TurnRecord(number, number, 0, "t", model, 0.0, 1.0, outcome, is_failed=outcome != "stop")
        for number, outcome in enumerate(outcomes)
    ]
    return Run(Header(1, model, 5, {"model": model}, {}, {}, []), turns, 1.0)


def test_what_was_published_is_of_models_that_the_catalogue_has() -> None:
    assert set(PUBLISHED) <= set(read_catalogue())


@pytest.mark.parametrize(
    "model", ["gemma-3-270m", "gemma-2-2b", "gemma-7b-it", "yi-1-5-9b", "llama-3-2-1b", "zephyr-3b"]
)
def test_nothing_was_published_of_another_model_of_the_same_family(model: str) -> None:
    assert row(run(model), None, []).published == ""
    assert row(run("gemma-7b"), None, []).published == "Winogrande about 0.7"


def test_the_table_says_why_turns_failed_and_cuts_no_figure_off() -> None:
    rows = [
        row(run(model, "stop", "no_template", "no_template", "deadline"), None, []) for model in ("yi-6b", "gemma-7b")
    ]
    plan = Plan("x", ())
    assert "| 4 (3 failed: 2 no_template, 1 deadline) |" in markdown(plan, rows)
    out = io.StringIO()
    Console(file=out, width=80).print(table(plan, rows * 3))
    assert "…" not in out.getvalue()
    assert "3 failed" in " ".join(out.getvalue().split())
