from __future__ import annotations

import logging

from broker.logs import MAX_LINES, WINDOW_SECONDS, FloodFilter


def record(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("broker.x", level, "file", 1, "%s not understood", (text,), None)


def test_a_flood_of_one_kind_of_warning_is_cut_and_counted() -> None:
    now = 0.0
    sparing = FloodFilter(lambda: now)
    passed = sum(sparing.filter(record(str(index))) for index in range(1000))
    assert passed == MAX_LINES
    now = WINDOW_SECONDS
    last = record("the last")
    assert sparing.filter(last)
    assert last.getMessage() == f"the last not understood (and {1000 - MAX_LINES} more like it before)"


def test_other_kinds_and_what_is_no_warning_pass() -> None:
    sparing = FloodFilter(lambda: 0.0)
    for _ in range(MAX_LINES):
        sparing.filter(record("x"))
    assert not sparing.filter(record("x"))
    assert sparing.filter(record("x", logging.INFO))
    assert sparing.filter(logging.LogRecord("broker.y", logging.WARNING, "file", 1, "%s not understood", ("x",), None))


def test_the_number_of_kinds_is_bounded() -> None:
    sparing = FloodFilter(lambda: 0.0)
    for index in range(5000):
        sparing.filter(logging.LogRecord("n", logging.ERROR, "file", 1, f"made of {index}", (), None))
    assert len(sparing._windows) <= 1024
