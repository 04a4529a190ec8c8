"""The table client × feature: how it is made, and that the page's is of the clients that are pinned."""

from __future__ import annotations

import json
import re

from tests.clients import table
from tests.clients.environments import PROGRAMS
from tests.clients.running import FEATURES

WORDS = {"yes", "taken", "calls on", "–"}
ACCOUNTS = [
    {"client": "one 1.0, chats", "features": {"chat": "yes", "thoughts": "taken"}},
    {"client": "two 2.0", "features": {"tools": "no: BadRequestError: tools are\nnot done", "count": "yes"}},
]


def rows_of_page() -> list[list[str]]:
    (found,) = re.findall(
        r"<!-- table of make e2e-clients -->\n(.*?)<!-- its end -->", table.PAGE.read_text(), re.DOTALL
    )
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]


def pinned() -> set[str]:
    """The clients with their versions, as a row names them."""
    lines = (PROGRAMS / "requirements.in").read_text().splitlines()
    node = json.loads((PROGRAMS / "package.json").read_text())["dependencies"]
    python = {re.sub(r"\[.*?]", "", line.partition("#")[0]).strip().replace("==", " ") for line in lines}
    return python | {f"{name} {version}" for name, version in node.items()}


def test_a_client_is_a_row_and_what_it_has_not_is_a_dash() -> None:
    assert table.table(ACCOUNTS).splitlines() == [
        "| client | chat | stream | tools | schema | thoughts | embeddings | count |",
        "|---|---|---|---|---|---|---|---|",
        "| one 1.0, chats | yes | – | – | – | taken | – | – |",
        "| two 2.0 | – | – | no: BadRequestError: tools are | – | – | – | yes |",
    ]


def test_the_page_has_a_row_for_each_client_that_is_run() -> None:
    head, _, *rows = rows_of_page()
    assert head == ["client", *table.COLUMNS]
    assert len(rows) == len({row[0] for row in rows}) == len(FEATURES)
    assert {row[0].partition(",")[0] for row in rows} <= pinned()
    assert all(len(row) == len(head) and set(row[1:]) <= WORDS for row in rows)
