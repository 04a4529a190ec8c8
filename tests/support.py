"""What tests of all kinds use: where the command is, free ports, waiting for what tells nobody that it has changed."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
TURNPIKE = [sys.executable, str(ROOT / "turnpike")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually[T](look: Callable[[], T], seconds: float = 30.0) -> T:
    """What `look` finds, once it finds something. For a database, which tells nobody that it has changed."""
    async with asyncio.timeout(seconds):
        while not (found := await asyncio.to_thread(look)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


class RunFolder:
    """Where a long run writes: a folder that was given and stays, or a temporary one that goes when all was well."""

    def __init__(self, name: str, given: str | None) -> None:
        self._is_given = given is not None
        self.path = Path(given) if given is not None else Path(tempfile.mkdtemp(prefix=f"turnpike-{name}-"))
        self.path.mkdir(parents=True, exist_ok=True)

    def all_was_well(self) -> None:
        if not self._is_given:
            shutil.rmtree(self.path, ignore_errors=True)


def argument(index: int) -> str | None:
    """Of the command line, where it was given and is not empty."""
    return (sys.argv[index] or None) if len(sys.argv) > index else None
