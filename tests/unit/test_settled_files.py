"""What is known of a file without reading it: only as long as it is the very same one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.catalogue import sha256_of
from workers.kept import MAX_KEPT
from workers.settled_files import SETTLED_SECONDS, Checked, stamp_of


def settled(path: Path, content: bytes) -> Path:
    """Written long ago, as far as a program can say so."""
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a file was changed no program can set, but the clock can be."""
    now = time.time
    monkeypatch.setattr("workers.settled_files.time.time", lambda: now() + 2 * SETTLED_SECONDS)


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    path = tmp_path / "boot_id"
    path.write_text("one\n")
    return path


def reads(checked: Checked, path: Path) -> tuple[str, int]:
    """What it says of a file, and whether it read it for that: a file that may not be read is known or not."""
    told: list[int] = []
    return checked.sha256(path, told.append), len(told)


def rewritten(path: Path) -> None:
    stat = path.stat()
    path.write_bytes(b"y" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replaced(path: Path) -> None:
    stat = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"y" * stat.st_size)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)


def grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"y")


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", [rewritten, replaced, grown])
def test_a_file_is_read_once_and_again_when_it_is_another(
    tmp_path: Path, boot: Path, change: Callable[[Path], None]
) -> None:
    # Larger than a piece, so that reading it is told more than once.
    path, kept = settled(tmp_path / "m.gguf", b"x" * 3_000_000), tmp_path / "data" / "checked.json"
    first = sha256_of(path)
    assert reads(Checked(kept, boot), path) == (first, 3)
    assert reads(Checked(kept, boot), path) == (first, 1)
    assert kept.stat().st_mode & 0o077 == 0
    change(path)
    second, num_told = reads(Checked(kept, boot), path)
    assert (second, num_told >= 3) == (sha256_of(path), True)
    assert second != first


@pytest.mark.usefixtures("later")
def test_it_is_read_again_once_the_machine_was_started_anew(tmp_path: Path, boot: Path) -> None:
    path, kept = settled(tmp_path / "m.gguf", b"x" * 3_000_000), tmp_path / "checked.json"
    Checked(kept, boot).sha256(path)
    boot.write_text("two")
    assert reads(Checked(kept, boot), path)[1] == 3
    assert kept.read_text().count("m.gguf") == 1
    boot.unlink()
    assert reads(Checked(kept, boot), path)[1] == 3


def test_a_file_that_was_just_written_may_change_unseen_and_is_not_remembered(tmp_path: Path, boot: Path) -> None:
    path = settled(tmp_path / "m.gguf", b"x")
    assert stamp_of(path) is None
    checked = Checked(tmp_path / "checked.json", boot)
    checked.sha256(path)
    assert not (tmp_path / "checked.json").exists()


@pytest.mark.usefixtures("later")
def test_what_is_kept_is_bounded_and_may_be_damaged_or_unwritable(tmp_path: Path, boot: Path) -> None:
    path, kept = settled(tmp_path / "m.gguf", b"x"), tmp_path / "checked.json"
    known = ", ".join(f'"one {number}": "abc"' for number in range(MAX_KEPT))
    kept.write_text(f"{{{known}}}")
    Checked(kept, boot).sha256(path)
    assert kept.read_text().count('":"') == MAX_KEPT
    kept.write_text("no json")
    assert Checked(kept, boot).sha256(path) == sha256_of(path)
    assert Checked(path / "no folder", boot).sha256(path) == sha256_of(path)
