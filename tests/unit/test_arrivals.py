from __future__ import annotations

import gzip
import itertools
import math
import random
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.load.arrivals import (
    BadArrivals,
    Closed,
    Constant,
    Gamma,
    Open,
    Ramp,
    Steps,
    Think,
    Trace,
    parse,
    share,
    stream,
)

SCHEDULES: list[Open] = [
    Constant(3.0),
    Gamma(3.0),
    Gamma(3.0, 0.25),
    Gamma(3.0, 8.0),
    Ramp(1.0, 9.0, 100.0),
    Ramp(9.0, 1.0, 100.0),
    Ramp(3.0, 3.0, 100.0),
    Steps(((1.0, 50.0), (0.0, 10.0), (8.0, 50.0))),
]


def take(schedule: Open, count: int, seed: int = 1) -> list[float]:
    return list(itertools.islice(schedule.offsets(random.Random(seed)), count))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_schedule_is_in_order_and_the_same_for_its_seed(schedule: Open) -> None:
    found = take(schedule, 300)
    assert found == sorted(found)
    assert found[0] >= 0
    assert found == take(schedule, 300)
    if not isinstance(schedule, Constant):
        assert found != take(schedule, 300, seed=2)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 8.0])
def test_gamma_gaps_have_their_mean_and_variation(burstiness: float) -> None:
    times = take(Gamma(5.0, burstiness), 50_000)
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *times])]
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.03)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(1 / math.sqrt(burstiness), rel=0.03)


def test_poisson_gaps_pass_a_kolmogorov_smirnov_test() -> None:
    """Against 1 − exp(−rate·x); 1.36/√n is the critical distance at 5 % (Smirnov 1948)."""
    rate, count = 2.0, 20_000
    times = take(Gamma(rate), count)
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise([0.0, *times]))
    distance = max(
        max(abs((index + 1) / count - (1 - math.exp(-rate * gap))), abs(index / count - (1 - math.exp(-rate * gap))))
        for index, gap in enumerate(gaps)
    )
    assert distance < 1.36 / math.sqrt(count)


def test_a_ramp_has_the_number_of_turns_that_its_rates_make() -> None:
    times = take(Ramp(10.0, 30.0, 500.0), 100_000)
    assert len(times) == pytest.approx(20 * 500, rel=0.05)
    assert sum(at < 250 for at in times) == pytest.approx(15 * 250, rel=0.05)
    assert times[-1] <= 500


def test_steps_keep_to_their_times() -> None:
    times = take(Steps(((0.0, 10.0), (50.0, 10.0), (5.0, 10.0))), 10_000)
    assert times[0] > 10
    assert sum(10 <= at < 20 for at in times) == pytest.approx(500, rel=0.15)
    assert sum(20 <= at < 30 for at in times) == pytest.approx(50, rel=0.5)
    assert times[-1] < 30


@given(num_parts=st.integers(1, 7))
def test_parts_share_one_schedule_without_overlap(num_parts: int) -> None:
    times = take(Gamma(3.0), 50)
    parts = [list(share(iter(times), part, num_parts)) for part in range(num_parts)]
    assert sorted(itertools.chain(*parts)) == list(enumerate(times))


def test_randomness_is_of_its_own_for_each_number() -> None:
    draws = {stream(seed, what, number).random() for seed in (1, 2) for what in "ab" for number in range(100)}
    assert len(draws) == 400
    assert stream(1, "a", 5).random() == stream(1, "a", 5).random()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("closed", Closed()),
        ("constant:2", Constant(2.0)),
        ("poisson:0.5", Gamma(0.5)),
        ("gamma:2:0.5", Gamma(2.0, 0.5)),
        ("ramp:1:8:60", Ramp(1.0, 8.0, 60.0)),
        ("step:1x30,0x5,4x30", Steps(((1.0, 30.0), (0.0, 5.0), (4.0, 30.0)))),
    ],
)
def test_what_a_person_types(text: str, wanted: object) -> None:
    assert parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "poisson",
        "poisson:0",
        "poisson:-1",
        "poisson:x",
        "gamma:1",
        "ramp:1:2",
        "step:1",
        "closed:3",
        "constant:inf",
        "trace:",
    ],
)
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(BadArrivals, match="--arrivals"):
        parse(text)


def test_a_trace_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"offset": 0}\n\n{"offset": 1.5, "x": 1}\n')
    assert parse(f"trace:{path}") == Trace((0.0, 1.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"offset": 2}\n{"offset": 1}\n', r"trace\.jsonl:2: offset 1 is out of order"),
        ('{"offset": 2}\n{"when": 1}\n', r"trace\.jsonl:2: is no line like"),
        ("nonsense\n", r"trace\.jsonl:1: is no line like"),
        ('{"offset": -1}\n', r"trace\.jsonl:1: offset -1 is out of order"),
        ("\n", r"trace\.jsonl: holds no lines"),
        ('{"offset": null}\n', r"trace\.jsonl:1: is no line like"),
        ('{"offset": true}\n', r"trace\.jsonl:1: is no line like"),
        ('{"offset": 1' + "0" * 400 + "}\n", r"trace\.jsonl:1: is no line like"),
        ('{"offset": 1' + "0" * 5000 + "}\n", r"trace\.jsonl:1: is no line like"),
        ("null\n", r"trace\.jsonl:1: is no line like"),
        ('{"a": ' * 100_000, r"trace\.jsonl:1: is no line like"),
    ],
)
def test_a_bad_trace_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(BadArrivals, match=message):
        parse(f"trace:{path}")


def test_thinking() -> None:
    assert Think.parse("0").draw(random.Random(1)) == 0
    assert Think.parse("fixed:2").draw(random.Random(1)) == 2
    think = Think.parse("exponential:2")
    rng = random.Random(1)
    assert statistics.mean(think.draw(rng) for _ in range(20_000)) == pytest.approx(2, rel=0.05)
    for text in ("2", "fixed", "exponential:-1", "gamma:1"):
        with pytest.raises(BadArrivals, match="--think"):
            Think.parse(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_trace_may_begin_with_a_byte_order_mark_and_be_packed(tmp_path: Path, encoding: str) -> None:
    lines = '{"offset": 0, "note": "a\u2028b ü"}\r\n{"offset": 1.5}\r\n'.encode(encoding)
    for name, content in (("x.jsonl", lines), ("x.jsonl.gz", gzip.compress(lines))):
        (tmp_path / name).write_bytes(content)
        assert parse(f"trace:{tmp_path / name}") == Trace((0.0, 1.5))
    (tmp_path / "x.jsonl").write_bytes(b'{"offset": 0}\n{"offset": 1, "note": "\xff"}\n')
    with pytest.raises(BadArrivals, match=r"x\.jsonl:2: is no line like .*: is not UTF-8"):
        parse(f"trace:{tmp_path / 'x.jsonl'}")
