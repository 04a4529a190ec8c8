from __future__ import annotations

import time
from pathlib import Path
from typing import get_args

import pytest

from broker import codec, points
from broker.messages import Point, Points
from broker.points.reference import reference
from workers.calls.deltas import Reason

DOC = Path(__file__).parents[2] / "docs" / "telemetry.md"


def test_no_name_is_both_a_tag_and_a_field_and_none_occurs_twice() -> None:
    names = [measurement.name for measurement in points.MEASUREMENTS]
    assert len(set(names)) == len(names)
    for measurement in points.MEASUREMENTS:
        assert not set(measurement.tags) & set(measurement.fields)
        assert "time" not in {*measurement.tags, *measurement.fields}


def test_a_points_fields_have_their_declared_types() -> None:
    found = points.SYSTEM.point(5, {"node": "n"}, {"load1": 1, "num_cores": 4, "load5": None})
    assert found == Point("system", {"node": "n"}, {"load1": 1.0, "num_cores": 4}, 5)
    assert isinstance(found.fields["load1"], float)


@pytest.mark.parametrize(
    ("tags", "fields", "message"),
    [
        ({"node": "n"}, {"loda1": 1.0}, r"system: 'loda1' is not one of its tags and fields"),
        ({"node": "n", "x": "y"}, {"load1": 1.0}, r"system: 'x' is not one of its tags and fields"),
        ({}, {"load1": 1.0}, r"system: 'node' is not one of its tags and fields"),
        ({"node": "n"}, {"num_cores": 4.0}, r"system\.num_cores: 4\.0 is no int"),
        ({"node": "n"}, {"num_cores": True}, r"system\.num_cores: True is no int"),
        ({"node": "n"}, {"load1": "high"}, r"system\.load1: 'high' is no float"),
    ],
)
def test_what_is_not_declared_is_refused_by_name(
    tags: dict[str, str], fields: dict[str, float | str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        points.SYSTEM.point(0, tags, fields)


def test_without_a_field_there_is_no_point() -> None:
    assert points.SYSTEM.point(0, {"node": "n"}, {"load1": None}) is None


@pytest.mark.parametrize(
    ("tag", "clean"), [("a\nb", "a b"), ("a\\", "a"), ("", "-"), ("\\", "-"), ("  ", "-"), ("é=,", "é=,")]
)
def test_a_tag_fits_on_a_line(tag: str, clean: str) -> None:
    found = points.SYSTEM.point(0, {"node": tag}, {"load1": 1.0})
    assert found is not None
    assert found.tags == {"node": clean}


def test_points_travel() -> None:
    sent = Points((Point("m", {"a": "b"}, {"f": 1.0, "i": 2**63 - 1, "b": False, "s": "x"}, time.time_ns()),))
    got = codec.decode(codec.encode(sent), Points)
    assert got == sent
    assert [type(value) for value in got.points[0].fields.values()] == [float, int, bool, str]


def test_the_reference_lists_what_the_code_sends() -> None:
    text = DOC.read_text()
    _, _, rest = text.partition("<!-- reference: python -m broker.points -->\n")
    assert rest == reference(), "renew it: python -m broker.points docs/telemetry.md"


def test_each_reason_why_a_call_is_none_has_a_field_of_a_turn() -> None:
    fields = {name for name in points.TURN.fields if name.startswith("broken_")}
    assert fields == {f"broken_{why}_calls" for why in get_args(Reason)}
