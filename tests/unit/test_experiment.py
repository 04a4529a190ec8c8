from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from broker.catalogue import read_catalogue
from producers.evaluate.items import SHIPPED, read_items
from producers.experiment.plan import ExperimentError, Plan, options, read_plan
from producers.experiment.rows import PUBLISHED, row
from producers.experiment.table import markdown, table
from producers.records.files import Run
from producers.records.lines import Header, TurnRecord
from tests.support import ROOT


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


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda path: path.name)
def test_every_plan_that_we_ship_makes_sense(path: Path) -> None:
    assert read_plan(path).name == path.stem


def test_a_model_has_a_load_of_its_own_where_it_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(
        'name = "x"\n[load]\nmax_tokens = 500\n[[models]]\nmodel = "chat"\n'
        '[[models]]\nmodel = "base"\nload = { stop = ["\\nUser:"], max_tokens = 40 }'
    )
    plan = read_plan(path)
    chat, base = (options(plan, model).sampling() for model in plan.models)
    assert (chat.stop, chat.max_tokens) == ((), 500)
    assert (base.stop, base.max_tokens) == (("\nUser:",), 40)
    path.write_text('name = "x"\n[[models]]\nmodel = "base"\nload = { stop = [""] }')
    with pytest.raises(ExperimentError, match="--stop: "):
        read_plan(path)


def test_the_items_that_we_ship_are_pairs_that_no_constant_answer_wins() -> None:
    left_out: list[object] = []
    items = read_items(SHIPPED, left_out)  # type: ignore[arg-type]
    assert (len(items), left_out) == (100, [])
    assert Counter(item.label for item in items) == {0: 50, 1: 50}
    assert all(one.choices == two.choices for one, two in zip(items[::2], items[1::2], strict=True))
    assert len({(item.context, item.rest) for item in items}) == 100
