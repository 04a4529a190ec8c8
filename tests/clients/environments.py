"""Environments of the clients' own, made of the locks beside the programs, by hash: .cache/clients/python and, as the
client in JavaScript finds its packages beside itself, tests/clients/programs/node_modules."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

PROGRAMS = ROOT / "tests" / "clients" / "programs"
PYTHON = ROOT / ".cache" / "clients" / "python"
NODE_MODULES = PROGRAMS / "node_modules"


class CannotBeMade(Exception):
    """An environment; the message says why."""


def has_python() -> bool:
    """Whether the clients in Python are there, as they are pinned."""
    return _is_made(PYTHON, PROGRAMS / "requirements.lock")


def has_node() -> bool:
    """Whether there is Node, and the clients in JavaScript, as they are pinned."""
    if shutil.which("node") is None:
        return False
    pinned: dict[str, str] = json.loads((PROGRAMS / "package.json").read_text())["dependencies"]
    manifests = {name: NODE_MODULES / name / "package.json" for name in pinned}
    return all(
        manifests[name].is_file() and json.loads(manifests[name].read_text())["version"] == wanted
        for name, wanted in pinned.items()
    )


def make_python() -> None:
    """Raises CannotBeMade."""
    if has_python():
        return
    _run("making an environment", [sys.executable, "-m", "venv", "--clear", PYTHON])
    install: list[str | Path] = [
        PYTHON / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    install += ["--require-hashes", "--only-binary", ":all:", "-r", PROGRAMS / "requirements.lock"]
    _run("installing the clients", install)
    (PYTHON / "made-of").write_text(_digest(PROGRAMS / "requirements.lock"))


def make_node() -> None:
    """Raises CannotBeMade."""
    if (npm := shutil.which("npm")) is None:
        raise CannotBeMade("there is no npm")
    if not has_node():
        _run("installing the AI SDK", [npm, "ci", "--silent", "--no-audit", "--no-fund", "--prefix", PROGRAMS])


def _is_made(folder: Path, lock: Path) -> bool:
    stamp = folder / "made-of"
    return stamp.is_file() and stamp.read_text() == _digest(lock)


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()


def _run(what: str, command: list[str | Path]) -> None:
    print(f"{what} …", flush=True)  # noqa: T201
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBeMade(f"{what} failed: {(done.stderr or done.stdout)[-500:]}")


if __name__ == "__main__":
    make_python()
    make_node()
