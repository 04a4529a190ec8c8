"""How benchmarks go in rounds, and what they make of them."""

from __future__ import annotations

import pytest

from benchmarks.loads import Measured, compared, mirrored
from benchmarks.peers import Asked


def measured(wall: float, *answers: tuple[float, list[float]]) -> Measured:
    """An answer for each time to first token, with the gaps behind it."""
    asked = []
    for ttft, gaps in answers:
        times = [10 + ttft]
        for gap in gaps:
            times.append(times[-1] + gap)
        asked.append(Asked(10.0, times))
    return Measured(wall, [asked[:1], asked[1:]])


async def test_rounds_are_mirrored_and_each_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    async def one(name: str) -> int:
        order.append(name)
        return len(order)

    found = await mirrored(3, {"ours": lambda: one("ours"), "theirs": lambda: one("theirs")})
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert found == {"ours": [1, 4, 5], "theirs": [2, 3, 6]}
    assert "round 2, theirs: 3\nround 2, ours: 4\n" in capsys.readouterr().out


def test_the_medians_of_the_rounds_are_compared() -> None:
    ours = [measured(wall, (1.0, [0.1, 0.2]), (3.0, [0.4])) for wall in (30.0, 10.0, 20.0)]
    theirs = [measured(40.0, (2.0, [0.1]), (8.0, [1.6]))] * 3
    targets = {
        "wall": 0.5,
        "median TTFT": 0.3,
        "worst TTFT": 1.0,
        "longest gap": 0.3,
        "median TTFT of later turns": 0.4,
    }
    rows = compared("eight", ours, theirs, targets)
    assert [row.result for row in rows] == pytest.approx([0.5, 0.4, 0.375, 0.25, 0.375])
    assert [row.is_met for row in rows] == [True, False, True, True, True]
    assert (rows[0].question, rows[0].ours, rows[0].peer) == ("eight: wall", "20.00 s", "40.00 s")
