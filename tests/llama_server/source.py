"""llama-server's tests out of llama.cpp's source, which comes with the sources of the pinned llama-cpp-python."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.support import ROOT

FOLDER = ROOT / ".cache" / "llama-server-tests"
GIVEN = "TP_LLAMA_CPP"
"""A folder of llama.cpp's source, where it need not be fetched."""
PARTS = ("tools/server/tests/", "models/templates/", "tools/mtmd/test-1.jpeg")
PACKAGE = "llama-cpp-python"


def is_there() -> bool:
    """Whether nothing has to be fetched."""
    return bool(os.environ.get(GIVEN)) or _folder().is_dir()


def tests() -> Path:
    """The folder of the tests; fetches the source (77 MB) where it is not there. Raises CalledProcessError."""
    if given := os.environ.get(GIVEN):
        return Path(given).expanduser().resolve() / "tools" / "server" / "tests"
    if not (folder := _folder()).is_dir():
        print(f"fetching the source of {PACKAGE} {folder.name} (77 MB)", flush=True)  # noqa: T201
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as place:
            (archive,) = _fetched(_lock(), Path(place))
            _unpack(archive, folder)
    return folder / "tools" / "server" / "tests"


def _folder() -> Path:
    return FOLDER / _lock().split()[0].partition("==")[2]


def _lock() -> str:
    """The package's lines of requirements.lock, with its hash."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith(f"{PACKAGE}=="))
    more = next(index for index, line in enumerate(lines[first + 1 :], first + 1) if not line.startswith(" "))
    return "\n".join(lines[first:more]) + "\n"


def _fetched(lock: str, place: Path) -> list[Path]:
    (place / "lock").write_text(lock)
    command = [sys.executable, "-m", "pip", "download", "-q", "--require-hashes", "--no-build-isolation", "--no-deps"]
    command += ["--no-binary", ":all:", "--no-cache-dir", "-d", str(place), "-r", str(place / "lock")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    return [*place.glob("llama_cpp_python-*.tar.gz")]


def _unpack(archive: Path, folder: Path) -> None:
    """What the tests need of it, whole or not at all."""
    part = folder.with_suffix(".part")
    with tarfile.open(archive) as found:
        for member in found:
            _, _, name = member.name.partition("/vendor/llama.cpp/")
            if name.startswith(PARTS) and member.isfile():
                member.name = name
                found.extract(member, part, filter="data")
    part.replace(folder)
