"""A model in several files, by the lock file and by name: as the same model in one."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from broker.catalogue import Locked, LockedFile, Missing, WrongHash, sha256_of, write_lock
from tests.split_file import write_split
from workers.chosen_file import model_path
from workers.llama.context import LlamaModel
from workers.model_file import ModelFileError
from workers.models import DEMO
from workers.settings import WorkerSettings

COUNT = 3


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    """A lock file and a folder with the shipped model in several files."""
    size = -(-len(gguf.GGUFReader(str(DEMO.path)).tensors) // COUNT)
    paths = [tmp_path / f"made-{index + 1:05d}-of-{COUNT:05d}.gguf" for index in range(COUNT)]
    made = write_split(DEMO.path, paths, [index * size for index in range(COUNT)])
    files = [LockedFile(path.name, sha256_of(path), path.stat().st_size) for path in made]
    first = files[0]
    locked = Locked("o/r", "c" * 40, first.file, first.sha256, first.size_bytes, files=tuple(files))
    write_lock(tmp_path / "lock", {"m": locked})
    (tmp_path / "models").mkdir()
    for source, target in zip(made, locked.paths_in(tmp_path / "models", "m"), strict=True):
        source.rename(target)
    return WorkerSettings(model="m", lock_file=str(tmp_path / "lock"), models_dir=str(tmp_path / "models"))


def test_a_locked_model_in_several_files_is_loaded_as_one(settings: WorkerSettings) -> None:
    whole, split = LlamaModel(DEMO.path), LlamaModel(model_path(settings))
    try:
        assert len(split.parts) == COUNT
        assert split.kv_shape == whole.kv_shape
        assert abs(split.file_bytes - whole.file_bytes) < 4096
    finally:
        split.close()
        whole.close()


def test_any_of_its_files_can_be_named(settings: WorkerSettings) -> None:
    first, *others = sorted(Path(settings.models_dir).iterdir())
    assert {model_path(WorkerSettings(model_file=str(path))) for path in (first, *others)} == {first}
    with others[1].open("r+b") as file:
        file.truncate(others[1].stat().st_size - 1)
    with pytest.raises(ModelFileError, match=rf"{others[1].name}: is corrupted or incomplete"):
        model_path(WorkerSettings(model_file=str(first)))


def test_one_missing_or_changed_file_is_one_sentence_at_the_start(settings: WorkerSettings) -> None:
    *_, last = sorted(Path(settings.models_dir).iterdir())
    last.write_bytes(last.read_bytes()[:-1] + b"x")
    with pytest.raises(WrongHash, match=rf"^m: {last.name}: has SHA-256"):
        model_path(settings)
    with pytest.raises(Missing, match=rf"^m: {last.name} is not in .*: turnpike models pull m$"):
        model_path(settings)
