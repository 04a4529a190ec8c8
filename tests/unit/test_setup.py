"""The set-up on machines that lack something, with a PATH of our own making."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

TOOLS = ("sh", "dirname", "cat", "cksum", "uname", "grep", "awk", "printf", "sed", "rm", "tr")


def set_up(folder: Path, *, python: bool, compiler: bool) -> subprocess.CompletedProcess[str]:
    """Runs a copy of the set-up in an empty checkout."""
    (folder / "bin").mkdir()
    for name in TOOLS:
        if found := shutil.which(name):
            (folder / "bin" / name).symlink_to(found)
    if python:
        (folder / "bin" / "python3").symlink_to(sys.executable)
    if compiler:
        (folder / "bin" / "cc").symlink_to("/bin/true")
    shutil.copytree(ROOT / "tools", folder / "tools")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    environment = {"PATH": str(folder / "bin"), "HOME": str(folder), "PYENV_ROOT": str(folder / "none")}
    command = [str(folder / "bin" / "sh"), "tools/setup.sh"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_missing_python_is_one_sentence(tmp_path: Path) -> None:
    found = set_up(tmp_path, python=False, compiler=True)
    assert found.returncode == 1
    assert len(found.stderr.splitlines()) == 1
    assert "no Python 3.12 or newer" in found.stderr


def test_a_missing_compiler_is_one_sentence(tmp_path: Path) -> None:
    found = set_up(tmp_path, python=True, compiler=False)
    assert found.returncode == 1
    assert len(found.stderr.splitlines()) == 1
    assert "no C/C++ compiler (cc) was found" in found.stderr
    assert not (tmp_path / ".venv").exists()
