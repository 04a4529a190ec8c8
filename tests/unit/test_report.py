from __future__ import annotations

import csv
import io
import json
import random
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from scipy import stats

from broker import formulas
from producers.load.generator import Progress
from producers.load.tables import progress_table, summary_table
from producers.records.figures import Bounds, summarize
from producers.records.files import Recording, Run, read_runs
from producers.records.lines import Ended, Header, TurnRecord
from producers.records.quantities import spread
from producers.report import tables
from producers.report.command import report
from producers.report.comparing import comparable, ratio
from producers.report.page import page
from producers.report.pictures import all_of
from producers.report.run_figures import by_context, context_cv, figures
from producers.report.tables import quantity

samples = st.lists(st.floats(0.001, 1000), min_size=2, max_size=200)


@given(samples)
def test_spreads_agree_with_numpy(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(values))
    assert found.standard_deviation == pytest.approx(np.std(values), abs=1e-9)
    assert (found.p50, found.p90, found.p99) == pytest.approx(tuple(np.percentile(values, [50, 90, 99])))
    assert found.cv == pytest.approx(stats.variation(values), abs=1e-9)


@given(samples)
def test_the_coefficient_of_variation_agrees_with_scipy(values: list[float]) -> None:
    assert formulas.coefficient_of_variation(values) == pytest.approx(stats.variation(values), abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_the_bootstrap_agrees_with_scipys(seed: int) -> None:
    rng = random.Random(seed)
    first = [rng.gauss(10, 2) for _ in range(80)]
    other = [rng.gauss(12, 3) for _ in range(60)]
    found = ratio(first, other)
    assert found is not None

    def statistic(one: Any, two: Any, axis: int) -> Any:
        return np.mean(two, axis=axis) / np.mean(one, axis=axis)

    wanted = stats.bootstrap(
        (first, other), statistic, method="percentile", n_resamples=2000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = wanted.high - wanted.low
    assert found.ratio == pytest.approx(np.mean(other) / np.mean(first))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.15 * width)


def test_of_many_turns_the_interval_is_the_delta_methods() -> None:
    rng = random.Random(1)
    first, other = ([rng.gauss(mean, 2) for _ in range(2000)] for mean in (10, 12))
    found = ratio(first, other)
    assert found is not None
    drawn = ratio(first[:500], other[:500])
    assert drawn is not None
    assert found.high - found.low == pytest.approx((drawn.high - drawn.low) / 2, rel=0.2)


def a_turn(number: int, rng: random.Random, level: float | None = None) -> TurnRecord:
    sent = number * 0.5
    first = sent + rng.uniform(0.05, 0.4)
    arrivals = tuple((first + 0.05 * step, 3) for step in range(5))
    return TurnRecord(
        number=number,
        conversation=number // 4,
        index=number % 4,
        turn=f"t{number}",
        model="m",
        sent_at=sent,
        ended_at=arrivals[-1][0],
        outcome="stop" if number % 20 else "deadline",
        is_failed=number % 20 == 0,
        scheduled_at=sent - 0.01,
        arrivals=arrivals,
        worker=f"w{number % 3}",
        prompt_tokens=50 + 100 * (number % 4),
        cached_tokens=40,
        completion_tokens=15,
        prefill_seconds=0.1,
        decode_seconds=0.2 + 0.1 * (number % 4),
        queue_wait_seconds=0.01,
        level=level,
    )


def write(path: Path, name: str, count: int, seed: int = 1, **settings: Any) -> Path:
    rng = random.Random(seed)
    header = Header(1, name, 5, {"model": "m", "max_tokens": 15} | settings, {"chosen_sha256": "a" * 64}, {}, [])
    with Recording(path, header) as recording:
        for number in range(count):
            recording.write(a_turn(number, rng, level=1.0 + number % 2 if "sweep" in settings else None))
        recording.write(Ended(count * 0.5 + 1))
    return path


def a_run(tmp_path: Path, **settings: Any) -> Run:
    (run,) = read_runs([write(tmp_path / "run.jsonl", "one", 100, **settings)])
    return run


def test_throughput_is_binned_by_context(tmp_path: Path) -> None:
    bins = by_context(a_run(tmp_path).turns, num_bins=4)
    assert [one.count for one in bins] == [20, 25, 25, 25]
    rates = [14 / (0.2 + 0.1 * index) for index in range(4)]
    assert [one.mean for one in bins] == pytest.approx(rates)
    assert context_cv(bins) == pytest.approx(stats.variation(rates))
    assert by_context([]) == []


def test_figures_count_what_was_good_and_what_failed(tmp_path: Path) -> None:
    found = figures(a_run(tmp_path), Bounds(ttft_seconds=0.2))
    assert (found.num_turns, found.num_failed, found.outcomes) == (100, 5, {"deadline": 5, "stop": 95})
    assert found.goodput_turns_per_second is not None
    assert 0 < found.goodput_turns_per_second < found.turns_per_second
    assert found.is_whole


def test_a_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.jsonl", "a<b>", 60), write(tmp_path / "b.jsonl", "other", 60, seed=2, sweep="1:10")]
    out = tmp_path / "out.html"
    bounds = Bounds(ttft_seconds=0.3)
    assert report(paths, bounds, html=out, csv=tmp_path / "out.csv", as_json=True) == 0
    text = out.read_text()
    assert len(text) < 2_000_000
    assert "<script" not in text
    assert not re.search(r'(src|href)="(?!#)', text), "nothing is fetched"
    assert not re.search(r"url\((?!#)", text)
    assert "a&lt;b&gt;" in text
    assert "a<b>" not in text
    for picture in ("Time to first token by turn", "Decode throughput by context length", "Goodput by rate", "Gantt"):
        assert f'aria-label="{picture}' in text
    assert "#010203" not in text
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert {line["run"] for line in lines} == {"a<b>", "other"}
    assert {"ttft_seconds", "itl_seconds", "decode_tokens_per_second"} <= {line["quantity"] for line in lines}


def test_the_figures_are_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path / "a.jsonl", "a", 60), write(tmp_path / "b.jsonl", "b", 60, seed=2)]
    report(paths, Bounds(), html=None, csv=None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [one["run"] for one in found["runs"]] == ["a", "b"]
    assert found["ratios_to_the_first"][0]["completion_tokens"]["ratio"] == 1.0
    report(paths, Bounds(), html=None, csv=None, as_json=False)
    assert "b ÷ a" in capsys.readouterr().out


def test_runs_of_other_models_are_not_compared_without_a_word(tmp_path: Path) -> None:
    runs = read_runs(
        [write(tmp_path / "a.jsonl", "a", 5), write(tmp_path / "b.jsonl", "b", 5, model="x", max_tokens=9)]
    )
    assert comparable(runs) == [
        "b and a are not comparable: model x against m",
        "b and a are not comparable: max_tokens 9 against 15",
    ]
    found = [figures(run) for run in runs]
    against = [tables.ratios(runs[0], runs[1])]
    assert "not comparable" in page(runs, found, against, comparable(runs), Bounds())


def test_runs_with_nothing_in_common_have_no_empty_table_of_ratios(tmp_path: Path) -> None:
    runs = read_runs([write(tmp_path / "a.jsonl", "a", 5), write(tmp_path / "b.jsonl", "b", 5)])
    found = [figures(run) for run in runs]
    assert "<th>ratio</th>" in page(runs, found, [tables.ratios(runs[0], runs[1])], [], Bounds())
    without = page(runs, found, [{}], [], Bounds())
    assert "<th>ratio</th>" not in without
    assert "Nothing that both have." in without


@pytest.mark.parametrize(("total", "title"), [(0, "2 conversations, "), (5, "2 of 5 conversations, ")])
def test_a_run_on_a_schedule_is_not_so_many_of_none(total: int, title: str) -> None:
    progress = Progress(started_at=time.perf_counter(), num_conversations=total, num_finished=2)
    assert str(progress_table(progress).title).startswith(title)


def shown_at_80(renderable: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=False).print(renderable)
    return out.getvalue()


def test_no_figure_is_cut_off_in_80_columns(tmp_path: Path) -> None:
    long = "run-with-a-long-name-20261126-153012-abcd"
    paths = [write(tmp_path / "a.jsonl", long, 60), write(tmp_path / "b.jsonl", "b" + long, 60, seed=2)]
    runs = read_runs(paths)
    found = [figures(run) for run in runs]
    text = shown_at_80(tables.text(found, [tables.ratios(runs[0], runs[1])], ["warning"]))
    assert "…" not in text.replace("… from its", "")  # which is a name
    figure = quantity(found[0].quantities["ttft_seconds"].p99, "s")
    assert figure in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_run_of_which_every_turn_failed_says_why_and_has_no_empty_table(tmp_path: Path) -> None:
    with Recording(tmp_path / "a.jsonl", Header(1, "bad", 5, {"model": "m"}, {}, {}, [])) as recording:
        for number in range(3):
            turn = TurnRecord(number, number, 0, f"t{number}", "m", 0.0, 1.0, "invalid_template", is_failed=True)
            recording.write(msgspec.structs.replace(turn, detail="no role 'tool' before [/INST]"))
        recording.write(Ended(1.0))
    runs = read_runs([tmp_path / "a.jsonl"])
    found = [figures(run) for run in runs]
    text = shown_at_80(tables.text(found, [], []))
    assert "3 invalid_template" in text
    assert "note: invalid_template: no role 'tool' before [/INST]" in text
    assert "p99" not in text
    assert "<table" not in page(runs, found, [], [], Bounds())
    summary = summarize(runs[0].turns, 1.0)
    assert summary.failures == {"invalid_template": 3}
    assert "3, 3 failed (3 invalid_template)" in shown_at_80(summary_table(summary, "x"))
    odd = msgspec.structs.replace(summary, failures={"[/x]": 3})
    assert "3, 3 failed (3 [/x])" in shown_at_80(summary_table(odd, "x"))


def swept(rates: dict[float, float], seconds: float = 10.0) -> list[TurnRecord]:
    """Turns of each rate, such a share of them with a first token after 0.1 s and the rest after 9 s."""
    turns = []
    for rate, share in rates.items():
        count = int(rate * seconds)
        for number in range(count):
            first = 0.1 if number < share * count else 9.0
            turns.append(TurnRecord(number, number, 0, "t", "m", 0.0, 9.5, "stop", arrivals=((first, 1),), level=rate))
    return turns


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({10: 1.0, 20: 1.0, 40: 0.3, 30: 0.95, 35: 0.5}, "sustained 30 turns/s (first token ≤ 2 s); 35 were too many"),
        ({1: 0.2}, "not sustained: 1 turns/s, the lowest rate tried (first token ≤ 2 s)"),
        ({1: 1.0, 2: 1.0}, "sustained 2 turns/s (first token ≤ 2 s); no higher rate was tried"),
    ],
)
def test_a_sweep_says_what_it_found_by_the_records_own_bounds(
    tmp_path: Path, rates: dict[float, float], said: str
) -> None:
    settings = {"model": "m", "sweep": "10:10", "slo_ttft_seconds": 2.0}
    with Recording(tmp_path / "a.jsonl", Header(1, "s", 5, settings, {}, {}, [])) as recording:
        for turn in swept(rates):
            recording.write(turn)
        recording.write(Ended(60.0))
    runs = read_runs([tmp_path / "a.jsonl"])
    found = [figures(run) for run in runs]
    assert found[0].notes == [said]
    assert found[0].goodput_turns_per_second is not None
    assert said in " ".join(shown_at_80(tables.text(found, [], [])).split())
    assert 'aria-label="Goodput by rate' in page(runs, found, [], [], Bounds())
    # Others' bounds, where they are given.
    assert figures(runs[0], Bounds(ttft_seconds=0.05)).notes[0].startswith("not sustained")


def test_there_is_no_half_a_turn_on_an_axis(tmp_path: Path) -> None:
    runs = read_runs([write(tmp_path / "a.jsonl", "a", 12)])
    for picture in all_of(runs):
        name = re.search(r'aria-label="([^"]*)"', picture)
        assert name is not None
        if name[1].startswith("Gantt") or name[1] == "Turns that wait":
            ticks = re.findall(r"<text[^>]*>([\d.−-]+)</text>", picture[picture.index("matplotlib.axis_2") :])
            assert ticks
            assert not [tick for tick in ticks if "." in tick or tick.startswith("−")], name[1]


@pytest.mark.parametrize(("models", "expected"), [(("small", "large"), "small large"), (("one", "one"), "r1 r2")])
def test_a_legend_names_the_models_where_they_tell_the_runs_apart(
    tmp_path: Path, models: tuple[str, ...], expected: str
) -> None:
    paths = [write(tmp_path / f"{n}.jsonl", f"r{n}", 3, model=model) for n, model in enumerate(models, 1)]
    picture = next(one for one in all_of(read_runs(paths)) if "Time to first token by turn" in one[:300])
    texts = re.findall(r"<text[^>]*>(\w+)</text>", picture)
    assert [one for one in texts if one in ("r1", "r2", *models)] == expected.split()


def test_a_run_with_nothing_in_it_is_a_page_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "empty", 0)
    assert report([path], Bounds(), html=tmp_path / "x.html", csv=None, as_json=False) == 0


@pytest.mark.parametrize(
    "odd",
    [
        {"sweep": "10:0"},
        {"sweep": "10:-1"},
        {"sweep": "10:inf"},
        {"sweep": ["10:10"]},
        {"slo_ttft_seconds": "two"},
        {"slo_tpot_seconds": [1]},
        {"slo_ttft_seconds": 10**400},
        {"warm_up_seconds": "x", "cool_down_seconds": {}},
        {"cool_down_seconds": 10**400},
    ],
)
def test_an_odd_setting_in_a_record_costs_what_it_tells(tmp_path: Path, odd: dict[str, object]) -> None:
    settings = {"model": "m", "sweep": "10:10", "slo_ttft_seconds": 2.0} | odd
    with Recording(tmp_path / "a.jsonl", Header(1, "s", 5, settings, {}, {}, [])) as recording:
        for turn in swept({1: 1.0}):
            recording.write(turn)
        recording.write(Ended(60.0))
    runs = read_runs([tmp_path / "a.jsonl"])
    found = [figures(run) for run in runs]
    assert found[0].num_turns == 10
    assert "ttft_seconds" in found[0].quantities


# --- What memory gives ---


def served_by(tmp_path: Path, *workers: dict[str, object]) -> Run:
    rng = random.Random(1)
    with Recording(tmp_path / "r.jsonl", Header(1, "r", 5, {"model": "m"}, {}, {}, list(workers))) as recording:
        for number in range(1, 7):
            recording.write(a_turn(number, rng))
        recording.write(Ended(60.0))
    (run,) = read_runs([tmp_path / "r.jsonl"])
    return run


def test_a_report_says_what_share_of_reading_a_decode_reaches_and_of_which_reading(tmp_path: Path) -> None:
    facts = {"active_bytes": "100000000", "read_peak_bytes_per_second": "13200000000", "read_peak_threads": "2"}
    older = {"active_bytes": "100000000", "peak_bytes_per_second": "26000000000", "threads": "4"}
    odd = facts | {"read_peak_bytes_per_second": "nan"}
    run = served_by(
        tmp_path,
        {"worker": "w0", "node": "pi", "facts": facts},
        {"worker": "w1", "node": "pi", "facts": older},
        {"worker": "w2", "node": "pi", "facts": odd},
        {"worker": "w9", "node": "idle", "facts": facts},
        {"worker": 7, "facts": []},
    )
    found = figures(run)
    (one,) = found.rooflines
    # w0 answered turns 3 and 6: 14 tokens behind the first of each, in 0.5 and 0.4 seconds.
    assert one.read_bytes_per_second == pytest.approx(1e8 * 28 / 0.9)
    assert one.share == pytest.approx(1e8 * 28 / 0.9 / 13.2e9)
    assert (one.worker, one.read_peak_threads) == ("w0", 2)
    words = (
        "w0 on pi: a stream's decode reads 3.11 GB/s of weights, 24 % of the 13.2 GB/s that memory gives to its best "
        "number of reading threads, 2"
    )
    assert words in found.notes
    assert f"note: {words}" in " ".join(shown_at_80(tables.text([found], [], [])).split())
    assert json.loads(tables.as_json([found], [], []))["runs"][0]["rooflines"][0]["read_peak_threads"] == 2


def test_of_a_record_that_tells_no_reading_nothing_is_said_of_it(tmp_path: Path) -> None:
    found = figures(served_by(tmp_path, {"worker": "w0", "node": "pi", "facts": {"file_bytes": "100000000"}}))
    assert (found.rooflines, found.notes) == ([], [])
