"""What an experiment runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from broker.client import Client
from broker.connection import Address

Probe = Callable[[int], tuple[float, int] | None]
"""CPU seconds and resident bytes of a process; None when it is gone."""


@dataclass(frozen=True)
class Stage:
    """What an experiment runs on. `entry` is turnpike/, `worker` the account of workers that are started here."""

    client: Client
    entry: Path
    worker: Address
    out: Path
    probe: Probe
    num_cores: int
    console: Console
    wait_seconds: float = 0.0
    """For a worker of others' to come."""
