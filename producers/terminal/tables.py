"""What tables for terminals have in common: nothing that is measured is ever cut off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table


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
