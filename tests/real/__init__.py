"""With the real models that `make real-models` fetches; skipped with a reason where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import ROOT
from tools.real_models import pinned

GEMMA = "gemma-3-270m"
QWEN = "qwen2.5-coder-0.5b"
FOLDER = Path(os.environ.get("TP_MODELS", ROOT / ".cache" / "real-models"))


def real_model(name: str) -> Path:
    """The file of a model of tools/real_models.toml; the test is skipped where it was not fetched."""
    if (file := model_file(name)) is None:
        pytest.skip(f"no {name} in {FOLDER}: `make real-models` fetches it")
    return file


def model_file(name: str) -> Path | None:
    """The file of a model of tools/real_models.toml; None where it was not fetched."""
    (file,) = [model.file for model in pinned() if model.name == name]
    return FOLDER / file if (FOLDER / file).is_file() else None
