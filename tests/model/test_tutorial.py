"""docs/tutorial.md, typed as it stands: each block of commands prints what the document says that it prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT, TURNPIKE

BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "the next block"
MAY_BE_MISSED = ("nobody serves demo yet",)
"""Said only while the worker is still loading."""
NODE = "vm"
"""The machine's name in the document."""


def blocks() -> list[tuple[str, str]]:
    """Each block of commands, and what the document shows behind it ("" where it shows nothing)."""
    found: list[tuple[str, str]] = []
    for kind, text in BLOCK.findall((ROOT / "docs/tutorial.md").read_text()):
        if kind == "sh":
            found.append((text, ""))
        else:
            commands, shown = found.pop()
            assert not shown, "two outputs behind one block"
            found.append((commands, text))
    return found


def shape(line: str) -> str:
    """What stays the same from run to run: no figures, times, ids and folders, and either worker."""
    line = re.sub(r"\b[0-9a-f]{32}\b", "ID", line)
    line = re.sub(r"credentials in \S+", "credentials in FOLDER", line)
    line = re.sub(r"\d[\d.,:]*( %)?|–", "N", line)
    line = re.sub(r"\b(left|right)\b", "WORKER", line)
    return re.sub(r"[\s─]+", " ", line).strip()


def is_the_models(line: str) -> bool:
    """An answer's words, which another CPU may round otherwise."""
    return bool(re.fullmatch(r"[A-Z][^:\[]*\.", line))


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """All blocks in one shell, in an empty home, on a free port."""
    (folder / "bin").mkdir()
    command = folder / "bin/turnpike"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(TURNPIKE)} "$@"\n')
    command.chmod(0o755)
    (folder / "home").mkdir()
    (folder / "try").mkdir()
    script = "".join(f"{commands}\necho {shlex.quote(MARK)}\n" for commands, _ in blocks())
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("TURNPIKE_", "NATS_"))}
    environment |= {"HOME": str(folder / "home"), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    environment |= {"TURNPIKE_PORT": "0", "TURNPIKE_NODE": NODE, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        ["bash", "-c", f"{script}"],
        cwd=folder / "try",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            said, _ = shell.communicate(timeout=240)
        except BaseException:
            os.killpg(shell.pid, 9)  # with the broker and the workers that it started
            raise
    return subprocess.CompletedProcess(shell.args, shell.returncode, said)


@pytest.mark.timeout(300)
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert found.returncode == 0, found.stdout
    printed = found.stdout.split(f"{MARK}\n")
    assert len(printed) == len(blocks()) + 1, found.stdout
    for (commands, shown), text in zip(blocks(), printed, strict=False):
        seen = {shape(line) for line in text.splitlines()}
        for line in filter(None, map(str.strip, shown.splitlines())):
            if not is_the_models(line) and not any(words in line for words in MAY_BE_MISSED):
                assert shape(line) in seen, f"{commands}\nshould print\n{line}\nand printed\n{text}"
    killed, whole = (int(number) for number in re.findall(r"(\d+) characters", found.stdout))
    (resumed,) = re.findall(r"resumed_tokens=(\d+)", found.stdout)
    assert 200 <= killed < whole
    assert 0 < int(resumed) < 2000
    assert len((tmp_path / "try/answer.txt").read_text().strip()) > 200
    for name in ("left", "right"):
        pid = int((tmp_path / f"try/{name}.pid").read_text())
        assert not Path(f"/proc/{pid}").exists(), f"{name} outlived its shell"


def test_the_tutorial_shows_a_kill() -> None:
    commands = "".join(text for text, _ in blocks())
    assert len(blocks()) >= 5
    assert commands.count("turnpike worker ") == 2
    assert "kill -9" in commands
