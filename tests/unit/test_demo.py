"""What `turnpike demo` shows while its conversations go on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from producers.commands.demo import Streams

LONG = " ".join(f"word{number}" for number in range(100))


@pytest.mark.parametrize("num_lines", [3, 14])
def test_of_a_long_answer_the_end_is_seen_and_the_panels_stay_as_high_as_they_are(num_lines: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80)
    streams = Streams(console)
    streams.show("left", "What?", LONG)
    streams.show("right", "And?", "def f():\n\treturn 1")
    console.print(streams.render(num_lines))
    lines = out.getvalue().splitlines()
    assert len(lines) == num_lines + 2
    assert "word99" in lines[-2]
    assert "return 1" in out.getvalue()
    assert {len(line.rstrip()) for line in lines} <= {len(lines[0].rstrip())}


def test_an_answer_that_grows_takes_the_place_of_what_it_was() -> None:
    out = io.StringIO()
    streams = Streams(Console(file=out, width=80))
    for text in ("one", "one two"):
        streams.show("left", "What?", text)
    streams.show("left", "Why?", "three")
    Console(file=out, width=80).print(streams.render())
    assert [out.getvalue().count(text) for text in ("› What?", "one", "› Why?", "three")] == [1, 1, 1, 1]
