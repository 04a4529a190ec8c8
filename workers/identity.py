"""Who a worker is, by its model's files and its settings, and what it says of itself, whatever its model is for."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from broker import subjects
from broker.discovery import OF_BOARD
from workers.chosen_file import known_sha256
from workers.machine.facts import machine_facts
from workers.model_facts import described
from workers.reporting.facts import file_facts
from workers.settings import WorkerSettings
from workers.worker_options import WorkerOptions


class Files(Protocol):
    """A model's, loaded. `LoadedFile` is one."""

    parts: list[Path]
    path: Path

    @property
    def file_bytes(self) -> int:
        """Of all its files."""
        ...

    @property
    def fingerprint(self) -> str:
        """Tells these files from others."""
        ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def quantization(self) -> str:
        """As llama.cpp names it."""
        ...


@dataclass(frozen=True)
class Identity:
    """Of a worker of this release, `version`, with a model of that name in subjects."""

    model_token: str
    files: Files
    config: WorkerSettings
    version: str

    @property
    def node(self) -> str:
        """Where it runs."""
        return subjects.node_name(self.config.node)

    def options(self, can: Sequence[str], facts: Mapping[str, str], **others: Any) -> WorkerOptions:
        """What the worker is made with; `others` are those that only some workers have."""
        config, files = self.config, self.files
        return WorkerOptions(
            name=config.worker_name or f"{self.node[:48]}-{os.getpid()}",
            model=self.model_token,
            model_name=files.name,
            quantization=files.quantization,
            node=self.node,
            version=self.version,
            fingerprint=files.fingerprint,
            wait_seconds=config.wait_seconds,
            facts=facts,
            can=tuple(can),
            may_differ=config.allow_other_file,
            **others,
        )

    def facts(self, system: str, others: Mapping[str, str]) -> dict[str, str]:
        """Build, machine, file and settings, for the records of whoever measures this worker; `system` is what
        llama.cpp says of the machine."""
        found = {
            "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
            "llama.cpp": system.strip(),
            "file": self.files.path.name,
            "file_bytes": str(self.files.file_bytes),
            "file_sha256": known_sha256(self.config),
            **file_facts(described(self.files.parts)),
            **machine_facts(),
            **others,
            OF_BOARD: self.node if self.config.board_fd is not None else "",
        }
        return {name: value for name, value in found.items() if value}


def tags_of(options: WorkerOptions) -> dict[str, str]:
    """By which its points are found."""
    quantization = options.quantization or "unknown"
    return {"node": options.node, "model": options.model, "quantization": quantization, "worker": options.name}
