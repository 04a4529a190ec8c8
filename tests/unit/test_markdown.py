"""Markdown as it comes, on a screen that is reckoned from what was written."""

from __future__ import annotations

import io
import re

import pytest

from producers.terminal.markdown import Drawn

STYLE = re.compile(r"\x1b\[[0-9;]*m")
TEXT = """# Title

Some **bold** text and `code`, and a [link](http://x.y/z) <b>as it is</b>.
A line of its own,
which goes on and on beyond the width of this terminal, so that it is wrapped somewhere here.

- one
- two
  1. nested

```python
def f(x: int) -> str:

    return "x"
```

| name | value |
|------|------:|
| a    | 1     |
| beta | 22    |

Done."""


class Screen:
    """Rows of text, moved about in as a terminal does."""

    def __init__(self) -> None:
        self.rows, self.row, self.column = [""], 0, 0

    def take(self, text: str) -> None:
        for piece in re.findall(r"\x1b\[\d*[A-Za-z]|\r|\n|[^\x1b\r\n]+", STYLE.sub("", text)):
            if piece.startswith("\x1b"):
                self.obey(piece[-1], int(piece[2:-1] or 0))
            elif piece == "\r":
                self.column = 0
            elif piece == "\n":
                self.row, self.column = self.row + 1, 0
                self.rows += [""] * (self.row + 1 - len(self.rows))
            else:
                line = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = line[: self.column] + piece + line[self.column + len(piece) :]
                self.column += len(piece)

    def obey(self, what: str, number: int) -> None:
        match what:
            case "A":
                self.row -= number
                assert self.row >= 0
            case "K":
                self.rows[self.row] = self.rows[self.row][: self.column]
            case "J":
                self.rows[self.row] = self.rows[self.row][: self.column]
                del self.rows[self.row + 1 :]
            case _:
                raise AssertionError(what)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    found = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "12")
    return found


def screen_of(terminal: Terminal) -> list[str]:
    screen = Screen()
    screen.take(terminal.getvalue())
    return [row.rstrip() for row in screen.rows]


def drawn(terminal: Terminal, pieces: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("producers.terminal.markdown.MAX_DRAWING_SHARE", 1e9)  # each piece is drawn
    terminal.truncate(0)
    terminal.seek(0)
    one = Drawn(terminal)
    for piece in pieces:
        one.write(piece)
    one.end()
    return screen_of(terminal)


def test_what_stands_there_at_the_end_is_the_same_however_it_came(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drawn(terminal, [TEXT], monkeypatch)
    assert whole[0] == "Title"
    assert "Some bold text and code, and a link" in whole
    assert "(http://x.y/z) <b>as it is</b>." in whole, "what looks like HTML is text"
    assert "A line of its own," in whole, "its line ends are meant"
    assert '    return "x"' in whole, "code is copied as it is"
    assert max(map(len, whole)) < 40
    for size in (3, 16):
        pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
        assert drawn(terminal, pieces, monkeypatch) == whole


def test_plain_text_is_added_to_what_stands_there_and_nothing_is_drawn_again(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(terminal, [*"Check the fan of node 7 first."], monkeypatch)
    assert terminal.getvalue() == "Check the fan of node 7 first.\n"


def test_a_note_stands_above_the_block_that_is_being_written(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Drawn(terminal)
    one.write("First.\n\nSecond **half")
    one.note("[loading]")
    one.write("** done")
    one.end()
    assert [row for row in screen_of(terminal) if row] == ["First.", "[loading]", "Second half done"]


def test_a_block_that_is_longer_than_the_screen_is_written_once(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"- line {number}" for number in range(40)]
    shown = drawn(terminal, [f"{line}\n" for line in lines], monkeypatch)
    assert [row.replace(" • ", "- ") for row in shown if row] == lines


def test_a_list_without_end_is_drawn_less_often(terminal: Terminal) -> None:
    one = Drawn(terminal)
    for number in range(3000):
        one.write(f"{number} ")
    one.end()
    assert len(terminal.getvalue()) < 200_000
    assert "2999" in screen_of(terminal)[-2]


@pytest.mark.parametrize("mark", [">", "- "])
def test_what_nests_without_end_stands_there_as_it_was_written(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    shown = drawn(terminal, [mark] * 100 + ["deep"], monkeypatch)
    assert "".join(shown).replace(" ", "") == mark.strip() * 100 + "deep"
