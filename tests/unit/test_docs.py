"""What the documents name exists, and what several of them say is the same."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from workers.calls import SYNTAXES

SKIPPED = {".venv", ".cache", ".git", "node_modules", "dist"}
DOCUMENTS = sorted(path for path in ROOT.rglob("*.md") if not SKIPPED & {part for part in path.relative_to(ROOT).parts})
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")


def prose(path: Path) -> str:
    """The text without code, which may look like links."""
    return CODE.sub("", FENCE.sub("", path.read_text()))


def anchors(path: Path) -> set[str]:
    """What GitHub calls a document's headings."""
    found = set()
    for line in FENCE.sub("", path.read_text()).splitlines():
        if line.startswith("#"):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip()).lower().replace(" ", "-")
            kept = (one for one in text if one in "-_" or unicodedata.category(one)[0] in "LN")
            found.add("".join(kept))
    return found


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in LINK.findall(prose(path)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert target.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


def test_a_stranger_finds_the_way_in() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/tutorial.md", "ARCHITECTURE.md"):
        assert f"]({name})" in readme, name
    for path in (ROOT / "docs").glob("*.md"):
        assert f"docs/{path.name}" in readme + (ROOT / "CONTRIBUTING.md").read_text(), f"nothing leads to {path.name}"
    first = "\n".join(readme.splitlines()[:20])
    assert "message queue" in first
    assert "make demo" in first
    assert f"pip install {project()['name']}" in first


def test_the_project_has_one_address() -> None:
    address = project()["urls"]["Homepage"]
    owner = address.rpartition("/")[0] + "/"
    for path in (*DOCUMENTS, ROOT / "CITATION.cff", ROOT / "pyproject.toml", *(ROOT / ".github").rglob("*.yml")):
        for found in re.findall(r"https://github\.com/[^\s)\"'>]+", path.read_text()):
            if found.startswith(owner) or "/turnpike" in found:
                assert found == address or found.startswith(f"{address}/"), f"{path.name}: {found}"


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
    for heading in headings:
        name = heading.partition("]")[0] + "]"
        assert re.search(rf"^{re.escape(name)}: https://", text, re.MULTILINE), f"{name} has no link"
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^### (.+)$", section, re.MULTILINE)
        assert set(found) <= kinds, section[:40]
        assert len(found) == len(set(found)), f"a kind of change twice: {section[:40]}"
    last = text.rstrip().splitlines()[-1]
    assert re.match(r"\[\d", last), f"behind the links, where no section is: {last}"


def test_the_version_is_one() -> None:
    version = project()["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"ARG VERSION={version}\n" in (ROOT / "k3s/Dockerfile").read_text()
    assert f"## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_the_page_of_tools_names_every_syntax_of_calls() -> None:
    page = (ROOT / "docs" / "tools.md").read_text()
    table = page[page.index("| `--tool-syntax` |") :].partition("\n\n")[0]
    named = [name for line in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])]
    assert sorted(named) == sorted(SYNTAXES)
