"""What is said of llama-server's tests: each by what became of it and why."""

from __future__ import annotations

import json
from pathlib import Path

from tests.llama_server.account import Account, page
from tests.llama_server.verdicts import Verdicts

VERDICTS = """
fresh = ["test_a.py::test_cached*"]
[not_ours]
"pictures" = ["test_a.py::test_see[*"]
[not_passed]
"it is another one's" = ["test_a.py::test_other", "test_a.py::test_mended"]
"""


def verdicts(folder: Path) -> Verdicts:
    path = folder / "verdicts.toml"
    path.write_text(VERDICTS)
    return Verdicts.read(path)


def account(folder: Path) -> Account:
    rows = [
        ("test_one", "passed", ""),
        ("test_mended", "passed", ""),
        ("test_other", "failed", "assert 404 == 200"),
        ("test_new[a|b]", "failed", "assert 1 == 2\n  and more"),
        ("test_see[1-2]", "skipped", "Skipped: does not apply: pictures"),
        ("test_large", "skipped", "Skipped: no model: `make real-models` fetches it"),
    ]
    lines = [json.dumps({"test": f"unit/test_a.py::{name}", "outcome": end, "why": why}) for name, end, why in rows]
    (folder / "outcomes").write_text("\n".join(lines))
    return Account.read(folder / "outcomes", verdicts(folder))


def test_a_test_s_parameters_are_part_of_its_name(tmp_path: Path) -> None:
    found = verdicts(tmp_path)
    assert found.why_not("test_a.py::test_see[a-b]") == "pictures"
    assert found.why_not("test_a.py::test_see") is None
    assert found.is_fresh("test_a.py::test_cached_tokens")
    assert not found.is_fresh("test_a.py::test_one")


def test_a_failure_that_is_not_known_and_a_known_one_that_passes_are_told(tmp_path: Path) -> None:
    found = account(tmp_path)
    assert found.surprises == [
        "failed: test_a.py::test_new[a|b]: assert 1 == 2\n  and more",
        "passes: test_a.py::test_mended",
    ]
    assert found.num_applying == 4
    assert found.told().startswith("6 tests: 2 of the 4 that apply pass (50.0 %)")


def test_the_page_names_each_that_does_not_pass_with_its_reason(tmp_path: Path) -> None:
    found = page(account(tmp_path))
    assert "| `test_a.py::test_other` | it is another one's |" in found
    assert "| `test_a.py::test_new[a\\|b]` | assert 1 == 2 |" in found
    assert "| 1 | pictures |" in found
    assert "| in all | 6 |" in found


def test_every_reason_of_the_suite_s_verdicts_is_said() -> None:
    found = Verdicts.read()
    assert all(reason.strip() and test.startswith("test_") for test, reason in found.not_ours.items())
    assert all(reason.strip() for reason in found.not_passed.values())
