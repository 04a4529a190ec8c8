"""The set-up on machines that lack something, with a PATH of our own making; and what `make` says of itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import ROOT

TOOLS = ("sh", "dirname", "cat", "cksum", "uname", "grep", "awk", "printf", "sed", "rm", "tr", "readlink")
FAKE_VENV = """import sys
if __name__ == "__main__":
    sys.exit(f"-m venv is run by {sys.executable}")
"""


def set_up(
    folder: Path, *, python: bool, compiler: Sequence[str] = ("cc", "c++"), activated: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a copy of the set-up in an empty checkout, as far as the virtual environment that it would make."""
    (folder / "bin").mkdir()
    for name in TOOLS:
        if found := shutil.which(name):
            (folder / "bin" / name).symlink_to(found)
    if python:
        (folder / "bin" / "python3").symlink_to(sys.executable)
    for name in compiler:
        (folder / "bin" / name).symlink_to("/bin/true")
    (folder / "fakes").mkdir()
    (folder / "fakes" / "venv.py").write_text(FAKE_VENV)
    shutil.copytree(ROOT / "tools", folder / "tools")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    environment = {"PATH": str(folder / "bin"), "HOME": str(folder), "PYENV_ROOT": str(folder / "none")}
    environment["PYTHONPATH"] = str(folder / "fakes")
    if activated:
        environment |= {"PATH": f"{folder / '.venv/bin'}:{environment['PATH']}", "VIRTUAL_ENV": str(folder / ".venv")}
    command = [str(folder / "bin" / "sh"), "tools/setup.sh"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_missing_python_is_one_sentence(tmp_path: Path) -> None:
    found = set_up(tmp_path, python=False)
    assert found.returncode == 1
    assert len(found.stderr.splitlines()) == 1
    assert "no Python 3.12 or newer" in found.stderr


def test_a_missing_compiler_is_one_sentence(tmp_path: Path) -> None:
    found = set_up(tmp_path, python=True, compiler=())
    assert found.returncode == 1
    assert len(found.stderr.splitlines()) == 1
    assert "no C/C++ compiler (cc) was found" in found.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_linked_venv_is_left_as_it_is(tmp_path: Path) -> None:
    others = tmp_path / "others"
    (others / "bin").mkdir(parents=True)
    (tmp_path / ".venv").symlink_to(others)
    found = set_up(tmp_path, python=True)
    assert found.returncode == 1
    assert found.stderr.splitlines() == [
        f"turnpike: .venv is a link to {others}, whose packages may be others' and are not set up anew from here: "
        "remove the link (rm .venv) for a .venv of this checkout's own"
    ]
    assert (others / "bin").exists()


@pytest.mark.parametrize("another", [False, True])
def test_an_activated_venv_is_not_made_anew_by_its_own_interpreter(tmp_path: Path, another: bool) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True, timeout=60)
    found = set_up(tmp_path, python=another, activated=True)
    runner = Path(found.stderr.strip().removeprefix("-m venv is run by "))
    assert runner.is_file(), found
    assert not runner.is_relative_to(tmp_path / ".venv")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_help_says_what_each_target_is_for() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([\w-]+):", makefile, re.MULTILINE)
    command = ["make", "--no-print-directory", "help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.findall(r"^make ([\w-]+) +\S", told, re.MULTILINE) == targets
    assert targets[0] == "setup", "plain `make` sets up"
