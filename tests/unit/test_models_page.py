"""docs/models.md says what holds for which kind of model: each cell of its table is backed by a test that there is."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support import ROOT

PAGE = (ROOT / "docs" / "models.md").read_text()
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)(?:\[([^\]`]+)\])?`")
TABLE = PAGE[PAGE.index("## What holds for which kind of model") :]


def tables() -> list[list[list[str]]]:
    """The rows of those tables whose second line names the models of the test's parameters, without their rules."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", TABLE, re.MULTILINE):
        lines = [line for line in block.splitlines() if not line.startswith("|--")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        if rows[1][1].startswith("`") and not REFERENCE.search(rows[1][1]):
            found.append(rows)
    return found


@pytest.fixture(scope="module")
def collected() -> dict[str, set[str]]:
    """What pytest finds in the files that the page names: the parameters of each test, by file and function."""
    files = sorted({found[0] for found in REFERENCE.findall(PAGE)})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert said.returncode == 0, said.stdout[-2000:] + said.stderr
    found: dict[str, set[str]] = {}
    for line in said.stdout.splitlines():
        if "::" in line:
            name, _, parameters = line.partition("[")
            found.setdefault(name, set()).add(parameters.removesuffix("]"))
    return found


def has(parameters: set[str], kind: str, kinds: list[str]) -> bool:
    """Whether a test runs with one kind, and not only with those whose names begin alike."""
    longer = [one.removeprefix(kind) for one in kinds if one != kind and one.startswith(kind)]
    ends = "|".join(map(re.escape, longer))
    pattern = re.compile(rf"(^|-){re.escape(kind)}" + (rf"(?!{ends})" if ends else "") + r"($|-)")
    return any(pattern.search(one) for one in parameters)


def test_every_test_that_the_page_names_is_there(collected: dict[str, set[str]]) -> None:
    named = REFERENCE.findall(PAGE)
    assert len(named) > 20
    for path, function, parameter in named:
        there = collected.get(f"{path}::{function}")
        assert there is not None, f"{path}::{function}"
        assert not parameter or parameter in there, f"{path}::{function}[{parameter}]: {sorted(there)}"


def test_every_cell_is_backed_by_a_test_of_its_kind(collected: dict[str, set[str]]) -> None:
    notes = set(re.findall(r"^(\d+)\. ", TABLE, re.MULTILINE))
    by_kind, by_model = tables()
    assert (len(by_kind) > 14, len(by_model) > 4) == (True, True)
    for head, models, *promises in (by_kind, by_model):
        kinds = [cell.strip("`") for cell in models[1:-1]]
        for promise, *cells, test in promises:
            assert len(cells) == len(kinds) == len(head) - 2, promise
            named = REFERENCE.search(test)
            for kind, cell in zip(kinds, cells, strict=True):
                note = re.search(r"\((\d+)\)", cell)
                if note is not None:
                    assert note[1] in notes, f"{promise}: {cell}"
                elif not re.match(r"no\b", cell):
                    assert cell, f"{promise}: nothing is said of {kind}"
                    assert named is not None, f"{promise}: no test"
                    there = collected[f"{named[1]}::{named[2]}"]
                    assert has(there, kind, kinds), f"{promise}: {named[2]} has no [{kind}]"


def test_a_kind_is_not_taken_for_one_whose_name_begins_like_it() -> None:
    kinds = ["tiny", "tiny-swa"]
    assert not has({"tiny-swa", "tiny-swa-20"}, "tiny", kinds)
    assert has({"tiny-20"}, "tiny", kinds)
    assert has({"20-tiny-swa"}, "tiny-swa", kinds)
