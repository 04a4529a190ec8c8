"""`.github/`: what GitHub would refuse, and what it would take and that would still be wrong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SCHEMAS = {
    "vendor.github-workflows": [".github/workflows/*.yml"],
    "custom.github-workflows-require-timeout": [".github/workflows/*.yml"],
    "vendor.dependabot": [".github/dependabot.yml"],
    "vendor.github-issue-forms": [".github/ISSUE_TEMPLATE/[!c]*.yml"],
    "vendor.github-issue-config": [".github/ISSUE_TEMPLATE/config.yml"],
    "vendor.citation-file-format": ["CITATION.cff"],
}
"""Of check-jsonschema, which brings them: nothing is fetched."""
PINNED = re.compile(r"uses: [\w.-]+(/[\w.-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
CHECKOUT = "actions/checkout@"


def read(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return found


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            yield f"{path.stem}/{name}", job


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in jobs():
        for step in job.get("steps", ()):
            yield name, step


@pytest.mark.parametrize("schema", SCHEMAS)
def test_github_understands_it(schema: str) -> None:
    files = [str(path) for pattern in SCHEMAS[schema] for path in sorted(ROOT.glob(pattern))]
    assert files
    command = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", schema, *files]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr


def test_other_peoples_actions_are_pinned_by_commit() -> None:
    for path in WORKFLOWS:
        for line in path.read_text().splitlines():
            if "uses:" in line and "uses: ./" not in line:
                assert PINNED.search(line), f"{path.name}: {line.strip()}"


def test_workflows_may_no_more_than_they_must() -> None:
    for path in WORKFLOWS:
        workflow = read(path)
        assert workflow["permissions"] in ({}, {"contents": "read"}), path.name
        assert "concurrency" in workflow, path.name
        assert "pull_request_target" not in workflow[True], path.name  # YAML 1.1 reads `on` as true
    writing = {
        name: {what for what, how in job.get("permissions", {}).items() if how == "write"} for name, job in jobs()
    }
    assert {name: what for name, what in writing.items() if what} == {
        "release/images": {"packages"},
        "release/pypi": {"id-token"},
        "release/github": {"contents"},
    }
    for name, step in steps():
        if step.get("uses", "").startswith(CHECKOUT):
            assert step["with"]["persist-credentials"] is False, name
        assert "secrets." not in str(step), f"{name}: nothing here needs a stored secret"


def test_only_a_job_that_reviewers_can_hold_publishes() -> None:
    (job,) = (job for _, job in jobs() if "gh-action-pypi-publish" in str(job))
    assert job["environment"] == {"name": "pypi", "url": "https://pypi.org/p/turnpike-mq"}
    assert job["permissions"] == {"id-token": "write"}
    assert not [step for step in job["steps"] if "run" in step], "what publishes runs nothing of the repository"


def test_jobs_wait_for_jobs_that_exist() -> None:
    for path in WORKFLOWS:
        names = set(read(path)["jobs"])
        for name, job in read(path)["jobs"].items():
            needs = job.get("needs", [])
            assert set([needs] if isinstance(needs, str) else needs) <= names - {name}, f"{path.name}: {name}"
            if job.get("uses", "").startswith("./"):
                assert "workflow_call" in read(ROOT / job["uses"])[True], name


def test_what_steps_run_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    num_called = 0
    for name, step in steps():
        script = step.get("run", "")
        assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0, f"{name}: {script}"
        assert "${{" not in script, f"{name}: a value in a script is an environment variable, or it is code"
        for target in re.findall(r"\bmake ([\w-]+)", script):
            assert target in targets, f"{name}: make {target}"
            num_called += 1
        for called in re.findall(r"(?:^|\s)((?:\.ci|tools)/[\w./-]+)", script):
            num_called += 1
            assert (ROOT / called).is_file(), f"{name}: {called}"
            assert os.access(ROOT / called, os.X_OK) or f"python {called}" in script, f"{name}: {called}"
    assert num_called >= 6


def test_both_architectures_pass_the_whole_gate() -> None:
    gate = dict(jobs())["ci/gate"]
    assert gate["strategy"]["matrix"]["runner"] == ["ubuntu-24.04", "ubuntu-24.04-arm"]
    assert [step["run"] for step in gate["steps"] if "run" in step] == ["bash .ci/run"]
    assert "gate" in dict(jobs())["release/pypi"]["needs"]
    assert "gate" in dict(jobs())["release/images"]["needs"]


def test_dependabot_looks_where_something_is() -> None:
    kept = {
        "pip": "pyproject.toml",
        "npm": "package.json",
        "github-actions": ".github/workflows/ci.yml",
        "docker": "influxdb.yaml",
    }
    updates = read(ROOT / ".github/dependabot.yml")["updates"]
    assert {one["package-ecosystem"] for one in updates} == set(kept)
    for one in updates:
        for folder in one.get("directories", [one.get("directory")]):
            assert (ROOT / folder.strip("/") / kept[one["package-ecosystem"]]).is_file(), folder


def test_hooks_before_a_commit_are_the_gates_own_tools() -> None:
    (repo,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local", "a hook of another repository has a version of its own, which drifts"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for hook in repo["hooks"]:
        command, *arguments = hook["entry"].split()
        assert command.startswith(".venv/bin/"), hook["id"]
        assert (ROOT / command).exists(), hook["id"]
        for argument in arguments:
            assert not argument.startswith("tools/") or (ROOT / argument).is_file(), hook["id"]
        if "files" in hook and tracked:
            assert any(re.search(hook["files"], name) for name in tracked), f"{hook['id']} concerns no file"
    makefile = (ROOT / "Makefile").read_text()
    entries = {hook["entry"].split()[0] for hook in repo["hooks"]}
    assert {".venv/bin/ruff", ".venv/bin/mypy"} <= entries
    assert all(
        f"@{command}" in makefile for command in (".venv/bin/ruff check", ".venv/bin/ruff format", ".venv/bin/mypy")
    )


@pytest.mark.parametrize(
    ("tag", "changelog", "said"),
    [
        ("v9.9.9", "## [9.9.9] - 2026-01-01\n- x\n", "the tag is v9.9.9, pyproject.toml says 1.2.3"),
        ("v1.2.3", "## [1.2.3]\n- x\n", "CHANGELOG.md has no heading '## [1.2.3] - YYYY-MM-DD'"),
        ("v1.2.3", "## [1.2.3] - 2026-01-01\n\n## [1.2.2] - 2025-01-01\n- x\n", "CHANGELOG.md says nothing of 1.2.3"),
    ],
)
def test_a_tag_that_cannot_be_released_is_one_sentence(tag: str, changelog: str, said: str, tmp_path: Path) -> None:
    found = release_notes(tmp_path, tag, changelog)
    assert found.returncode == 1
    assert found.stderr == f"{said}\n"
    assert not found.stdout


def test_a_release_tells_its_own_section(tmp_path: Path) -> None:
    changelog = (
        "# C\n\n## [Unreleased]\n- y\n\n## [1.2.3] - 2026-01-01\n\n### Added\n\n- x\n\n[1.2.3]: https://example.org\n"
    )
    found = release_notes(tmp_path, "v1.2.3", changelog)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "### Added\n\n- x\n"


def release_notes(folder: Path, tag: str, changelog: str) -> subprocess.CompletedProcess[str]:
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "tools/release_notes.py", folder / "tools")
    (folder / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (folder / "CHANGELOG.md").write_text(changelog)
    command = [sys.executable, str(folder / "tools/release_notes.py"), tag]
    return subprocess.run(command, capture_output=True, text=True, check=False)
