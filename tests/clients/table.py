"""The table client × feature of docs/clients.md, made of what the clients' programs tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support import ROOT

PAGE = ROOT / "docs" / "clients.md"
COLUMNS = ("chat", "stream", "tools", "schema", "thoughts", "embeddings", "count")
_MARKED = re.compile(r"(<!-- table of make e2e-clients -->\n).*?(<!-- its end -->)", re.DOTALL)


def cell(word: str | None) -> str:
    """Of the table; a failure in its first words."""
    return "–" if word is None else word if not word.startswith("no: ") else f"no: {word[4:60].partition(chr(10))[0]}"


def table(accounts: Sequence[Mapping[str, Any]]) -> str:
    """A row for each client; – for what it has not."""
    lines = [f"| client | {' | '.join(COLUMNS)} |", f"|{'---|' * (len(COLUMNS) + 1)}"]
    for one in accounts:
        cells = " | ".join(cell(one["features"].get(column)) for column in COLUMNS)
        lines.append(f"| {one['client']} | {cells} |")
    return "\n".join(lines) + "\n"


def write(accounts: Sequence[Mapping[str, Any]]) -> None:
    """Puts the table into the page, between its marks."""
    page = PAGE.read_text()
    written, num_tables = _MARKED.subn(lambda found: found[1] + table(accounts) + found[2], page)
    assert num_tables == 1, "the page has lost its marks"
    PAGE.write_text(written)
