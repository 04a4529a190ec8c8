"""The model that Turnpike ships, made by tools/demo_model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from msgspec import Struct

from broker.errors import TurnpikeError


class AlteredModel(TurnpikeError):
    """A shipped file that is not what was shipped."""

    def __init__(self, path: Path, found: str) -> None:
        self.path = path
        self.found = found
        super().__init__(f"{path} is not the file that was shipped (its SHA-256 is {found}): install Turnpike again")


class ShippedModel(Struct, frozen=True):
    """A GGUF file in this package."""

    token: str
    path: Path
    sha256: str

    def verified(self) -> Path:
        """The file's path; raises AlteredModel unless its bytes are those that were shipped."""
        try:
            found = hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            found = f"unknown: {error.strerror}"
        if found != self.sha256:
            raise AlteredModel(self.path, found)
        return self.path


DEMO = ShippedModel(
    "demo", Path(__file__).with_name("demo.gguf"), "37536626cceff56a0308eceb6ceb81789e6c3d7bf78c572a8132ac9ada5c079a"
)
