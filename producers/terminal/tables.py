"""What tables for terminals have in common: nothing that is measured is ever cut off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text


class FoldingTable(Table):
    """A table whose columns fold where a terminal is too narrow, the widest first, instead of ending in “…”.

    Its lines take one character a column, not three: what is between the figures is what there is least use for.
    """

    def __init__(self, *heads: str, **options: Any) -> None:
        super().__init__(*heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, **options)

    def add_column(self, header: RenderableType = "", *arguments: Any, **options: Any) -> None:
        """A column that folds."""
        super().add_column(header, *arguments, **options | {"no_wrap": False, "overflow": "fold"})


def causes(failures: Mapping[str, int]) -> str:
    """Why turns failed, the most frequent first: `2 invalid_template, 1 deadline`."""
    ordered = sorted(failures.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{count} {code}" for code, count in ordered)


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 turn`, `2 turns`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def print_columns(rows: Iterable[tuple[str, str]]) -> None:
    """Words and what they mean, on standard error."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for left, right in rows:
        grid.add_row(Text(f"  {left}"), Text(right))
    Console(stderr=True).print(grid)
