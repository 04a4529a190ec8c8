"""Which model file the settings mean, and what it is called in subjects."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from broker import subjects
from broker.catalogue import entry_of, locked_as, read_lock, verify
from workers.model_file import served_parts
from workers.models import DEMO
from workers.settings import WorkerSettings
from workers.settled_files import Checked


def model_token(path: Path) -> str:
    """A token for subjects made from a file's name: Llama-3.2-1B-Q4_0.gguf → Llama-3_2-1B-Q4_0."""
    return subjects.token(re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:64], "model")


def model_path(config: WorkerSettings, heard: Callable[[int], None] = lambda _: None) -> Path:
    """The file that the settings mean, verified where its hash is known, once for as long as it stays as it is and the
    machine runs; `heard` is told of bytes as they are read for that. Raises TurnpikeError."""
    if config.model_file is not None:
        return served_parts(Path(config.model_file).expanduser())[0]
    if config.model in (None, DEMO.token):
        return DEMO.verified()
    locked = locked_as(config.model, Path(config.lock_file))
    checked = Checked(Path(config.data_dir).expanduser() / "checked.json")
    return verify(config.model, locked, Path(config.models_dir).expanduser(), heard, checked.sha256)


def known_sha256(config: WorkerSettings) -> str:
    """Of the model's file, where it was verified anyway; a file that was merely named is not read for it."""
    if config.model_file is not None:
        return ""
    if config.model in (None, DEMO.token):
        return DEMO.sha256
    return entry_of(config.model, read_lock(Path(config.lock_file)), config.lock_file).digest
